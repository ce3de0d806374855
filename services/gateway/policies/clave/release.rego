# Conditions on a model version before it is approved, promoted, deployed or served: who made it, who
# approved it, its status, signature, evaluation gate and card.
package clave.authz

import rego.v1

ns_rules := data.clave.namespaces[input.resource.properties.namespace]

# ---- separation of duties: whoever made, trained or submitted a thing neither approves nor activates it

sod_ok if {
	is_array(data.clave.settings.sod_waived)
	input.action.name in data.clave.settings.sod_waived
}

sod_ok if {
	input.subject.type == "user"
	is_string(input.subject.id)
	contributors_known
	not input.subject.id in input.resource.properties.contributors
}

contributors_known if {
	is_array(input.resource.properties.contributors)
	count(input.resource.properties.contributors) > 0
	every contributor in input.resource.properties.contributors { is_string(contributor) }
}

# ---- approvals

fresh_approval_ok if {
	is_string(input.action.name)
	input.action.name != "registry:version.approve"
}

fresh_approval_ok if {
	is_string(input.subject.id)
	is_array(input.resource.properties.approvals)
	every approval in input.resource.properties.approvals { is_string(approval.by) }
	not input.subject.id in {approval.by | some approval in input.resource.properties.approvals}
}

# Distinct people who approved and did not contribute. Robots and unknown names do not count.
independent_approvers := {approval.by |
	is_array(input.resource.properties.contributors)
	is_array(input.resource.properties.approvals)
	some approval in input.resource.properties.approvals
	is_string(approval.by)
	regex.match(`^user:[^\s]+$`, approval.by)
	approval.decision == "approve"
	not approval.by in input.resource.properties.contributors
}

approvals_ok if {
	is_array(input.resource.properties.contributors)
	is_number(ns_rules.min_approvals)
	count(independent_approvers) >= ns_rules.min_approvals
}

# ---- status, signature, gate, card

status_ok if input.resource.properties.status in ns_rules.statuses[act.checks_status]

signature_ok if ns_rules.require_signature == false

signature_ok if input.resource.properties.signature_verified == true

gate_ok if ns_rules.require_gate == false

gate_ok if input.resource.properties.evaluation_gate == "passed"

# An evaluation is as good as who recorded it: an environment may name whose count.
evaluator_ok if not ns_rules.require_evaluated_by

evaluator_ok if {
	is_array(ns_rules.require_evaluated_by)
	is_string(input.resource.properties.evaluated_by)
	input.resource.properties.evaluated_by in ns_rules.require_evaluated_by
}

card_namespace_ok if {
	card := input.resource.properties.card
	is_object(card)
	allowed := object.get(card, "allowed_namespaces", ["Development", "Staging", "Production"])
	is_array(allowed)
	input.resource.properties.namespace in allowed
}
