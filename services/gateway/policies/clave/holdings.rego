# What somebody holds, arranged for asking: by role, then tenant, then namespace.
#
# Whoever loads the policy arranges the bindings once and adds them to the data as `holders`, and as `grants` the roles
# that grant each action (`clave_common.access.policy_index`). Data without them, as a bare OPA may hold, decide the
# same.
package clave.authz

import rego.v1

# Asked by a rule of its own: under `not`, OPA would take an absent document for no answer at all.
arranged_data if is_object(data.clave.holders)

# An undefined value is tested for: inside a comprehension the embedded machine would keep it as a member.
holders := array.concat(
	[holder | holder := data.clave.holders.subjects[input.subject.id]; is_object(holder)],
	[holder | some group in groups; holder := data.clave.holders.groups[group]; is_object(holder)],
) if arranged_data

holders := array.concat(
	[arranged(held) | held := data.clave.bindings[input.subject.id]; is_array(held)],
	[arranged(held) | some group in groups; held := data.clave.group_bindings[group]; is_array(held)],
) if not arranged_data

default groups := []

groups := input.subject.properties.groups if is_array(input.subject.properties.groups)

arranged(bindings) := {role: tenants |
	some role in {binding.role | some binding in bindings}
	tenants := {tenant: place(given) |
		some tenant in {binding.tenant | some binding in bindings; binding.role == role}
		given := [binding | some binding in bindings; binding.role == role; binding.tenant == tenant]
	}
}

place(given) := {
	"anywhere": reach_of([pattern | some binding in given; some pattern in patterns_of(binding)]),
	"namespaces": {namespace: reach |
		some namespace in {name | some binding in given; some name in binding.namespaces}
		reach := reach_of([pattern |
			some binding in given
			namespace in binding.namespaces
			some pattern in patterns_of(binding)
		])
	},
	"clauses": [{"namespaces": object.get(binding, "namespaces", []), "resources": patterns_of(binding)} |
		some binding in given
	],
}

patterns_of(binding) := object.get(binding, "resources", ["**"])

reach_of(patterns) := {
	"all": "**" in patterns,
	"ids": {pattern: true | some pattern in patterns; not endswith(pattern, "/**")},
	"below": {trim_suffix(pattern, "/**"): true | some pattern in patterns; endswith(pattern, "/**")},
}

# Whether an id, or a pattern to be handed on, lies within a reach.
reaches(reach, id) if {
	reach.all
	is_string(id)
}

reaches(reach, id) if reach.ids[id]

reaches(reach, id) if {
	is_string(id)
	parts := split(id, "/")
	some at, _ in parts
	at > 0
	reach.below[concat("/", array.slice(parts, 0, at))]
}

# ---- which roles grant the action asked for

granting_roles := data.clave.grants[input.action.name] if catalogued

granting_roles := {role: true |
	some holder in holders
	some role, _ in holder
	role_grants(role)
} if not catalogued

catalogued if is_object(data.clave.grants[input.action.name])

role_grants(role) if closure(role).exact[input.action.name]

role_grants(role) if {
	some pattern in closure(role).patterns
	matches_action(pattern, input.action.name)
}
