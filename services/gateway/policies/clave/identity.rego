# Who asks, and whether the credential is good: form of the input, kind of subject, expiry, scopes.
#
# The signature or HMAC of the credential was verified before the policy is asked.
package clave.authz

import rego.v1

well_formed if {
	is_string(input.subject.id)
	is_string(input.subject.type)
	is_string(input.action.name)
	is_string(input.resource.type)
	is_string(input.resource.id)
	is_object(input.resource.properties)
	is_object(input.context)
	is_number(now)
}

# Epoch seconds, set by the enforcement point. Milliseconds, 0, null and strings are malformed, not late.
now := input.context.time if {
	is_number(input.context.time)
	input.context.time > 1000000000
	input.context.time < 10000000000
}

authenticated if {
	input.context.auth.method in data.clave.auth_methods[input.subject.type]
	is_string(input.subject.id)
	startswith(input.subject.id, concat("", [input.subject.type, ":"]))
}

subject_active if {
	is_string(input.subject.id)
	not input.subject.id in data.clave.disabled_subjects
}

credential_fresh if {
	is_number(input.context.auth.expires_at)
	input.context.auth.expires_at > now
}

# Scopes only ever narrow what roles grant.
scope_ok if {
	is_array(input.context.auth.scopes)
	is_string(input.action.name)
	"**" in input.context.auth.scopes
}

scope_ok if {
	is_array(input.context.auth.scopes)
	some scope in input.context.auth.scopes
	matches_action(scope, input.action.name)
}
