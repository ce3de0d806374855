# The decision point of the suite.
#
# Decides: whether a subject may perform an action on a resource now, every reason why not, and
# what whoever enforces the answer still has to do (obligations). Asked as `data.clave.authz.decision`
# with an AuthZEN input: subject, action, resource, context.
#
# How every file of this package is written, so that an odd or missing attribute always denies:
#   * a constraint is a positive rule `x_ok`; its reason is raised by `not x_ok`;
#   * a type is tested before a value is compared, because Rego orders null < bool < number < string
#     and would call `null < 4` true;
#   * only builtins on which OPA and regorus agree are used: no glob.match, no io.jwt, no crypto.
package clave.authz

import rego.v1

default allow := false

allow if count(reasons) == 0

decision := {
	"allow": allow,
	"reasons": sort(reasons),
	"obligations": obligations,
	"policy_version": data.clave.version,
}

reasons contains "malformed_input" if not well_formed

reasons contains "unauthenticated" if not authenticated

reasons contains "subject_disabled" if not subject_active

reasons contains "credential_expired" if not credential_fresh

reasons contains "scope_exceeded" if not scope_ok

reasons contains "unknown_action" if not known_action

reasons contains "no_grant" if not granted

reasons contains "tenant_mismatch" if not tenant_ok

reasons contains "namespace_not_bound" if {
	granted
	tenant_ok
	not granted_here
}

reasons contains "resource_not_bound" if {
	granted_here
	not resource_bound
}

reasons contains "internal_only" if {
	demands.internal
	not internal_ok
}

reasons contains "mfa_required" if {
	demands.mfa
	not mfa_ok
}

reasons contains "network_not_allowed" if {
	demands.admin_network
	not network_ok
}

reasons contains "lockdown" if not lockdown_ok

reasons contains "separation_of_duties" if {
	demands.sod
	not sod_ok
}

reasons contains "already_approved_by_subject" if not fresh_approval_ok

reasons contains "status_not_allowed" if {
	demands.checks_status
	not status_ok
}

reasons contains "insufficient_approvals" if {
	demands.deploys
	not approvals_ok
}

reasons contains "artifact_not_signed" if {
	demands.deploys
	not signature_ok
}

reasons contains "evaluation_gate_not_passed" if {
	demands.deploys
	not gate_ok
}

reasons contains "evaluator_not_accepted" if {
	demands.deploys
	not evaluator_ok
}

reasons contains "card_forbids_namespace" if {
	demands.deploys
	not card_namespace_ok
}

reasons contains "outside_change_window" if {
	demands.windowed
	not window_ok
}

reasons contains "purpose_not_permitted" if {
	demands.reads_features
	not purpose_ok
}

reasons contains "consent_missing" if {
	demands.reads_features
	not consent_ok
}

reasons contains "quota_exceeded" if {
	demands.quota
	not quota_ok
}

reasons contains "privilege_escalation" if {
	demands.delegates
	not scopes_ok
}

reasons contains "privilege_escalation" if {
	binds_role
	not binding_ok
}

# ---- what the action is

default act := {}

act := data.clave.catalog[input.action.name] if is_object(data.clave.catalog[input.action.name])

known_action if is_object(data.clave.catalog[input.action.name])

# A flag that is absent asks for nothing; one that is neither absent nor false asks for its constraint.
default demands := {}

demands := data.clave.demands[input.action.name] if arranged_data

demands := {flag: true | some flag, value in act; value != false} if not arranged_data

# ---- obligations: present on a denial too, but only an allow may be cached

obligations := {
	"rate_limit": rate_limit,
	"mask": sort(withheld),
	"audit": audit_level,
	"cache_ttl_s": cache_ttl_s,
}

default audit_level := "full"

audit_level := "sampled" if act.audit == "sampled"

default cache_ttl_s := 0

cache_ttl_s := act.cache_ttl_s if {
	allow
	is_number(act.cache_ttl_s)
	act.mutating == false
	not demands.windowed
}

default rate_limit := {"per_minute": 60, "burst": 10}

rate_limit := {"per_minute": card_limit, "burst": ceil(card_limit / 10)} if card_limit

rate_limit := data.clave.rate_tiers[tier] if not card_limit

tier := data.clave.subject_tiers[input.subject.id]

tier := data.clave.settings.default_tier if not data.clave.subject_tiers[input.subject.id]

# A model card may narrow or widen its own limit, in whole requests and never beyond a million a minute:
# an absurd figure falls back to the subject's tier.
card_limit := n if {
	act.card_rate_limited == true
	n := input.resource.properties.card.rate_limit_per_minute
	is_number(n)
	n >= 1
	n <= 1000000
	n == floor(n)
}
