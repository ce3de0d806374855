# What a role comes to with all that it inherits.
#
# Whoever loads the policy works the closures out once and adds them to the data (`clave_common.access.policy_index`): walking the
# graph of roles in every decision doubled its cost. Data without them, as a bare OPA may hold, decide the same.
package clave.authz

import rego.v1

closure(role) := data.clave.closures[role]

closure(role) := entry if {
	not arranged_data
	is_object(data.clave.roles[role])
	reached := graph.reachable(role_graph, {role})
	permissions := {p | some r in reached; some p in data.clave.roles[r].permissions}
	handed := {p | some r in reached; some p in object.get(data.clave.roles[r], "may_delegate", [])}
	entry := {
		"roles": {r: true | some r in reached},
		"exact": {p: true | some p in permissions; not contains(p, "*")},
		"patterns": {p | some p in permissions; contains(p, "*")},
		"held": {p: true | some p in permissions | handed},
		"held_patterns": {p | some p in permissions | handed; contains(p, "*")},
	}
}

role_graph[role] := object.get(data.clave.roles[role], "inherits", []) if some role, _ in data.clave.roles
