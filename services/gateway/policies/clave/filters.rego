# Which rows of a list a caller may see.
#
# `visible` is a filter that both engines compute and `clave_common.access.filters` turns into SQL with
# bound parameters: a list of clauses, any of which lets a row through. `include` is the same question for
# engines that compile policies by partial evaluation (OPA's Compile API) over `input.models`.
package clave.filters

import data.clave.authz
import rego.v1

# One clause per binding that grants the action: tenant (null = any), namespaces, resource patterns.
visible contains clause if {
	authz.well_formed
	authz.authenticated
	authz.subject_active
	authz.credential_fresh
	authz.scope_ok
	authz.internal_ok
	authz.mfa_ok
	authz.network_ok
	some binding in authz.granting
	binding.tenant in {"*", input.subject.properties.tenant}
	clause := {
		"tenant": reach(binding),
		"namespaces": object.get(binding, "namespaces", []),
		"resources": object.get(binding, "resources", ["**"]),
	}
}

reach(binding) := null if binding.tenant == "*"

reach(binding) := binding.tenant if binding.tenant != "*"

include if {
	input.subject.properties.tenant == input.models.tenant
	input.models.visibility == "tenant"
}

include if {
	input.subject.properties.tenant == input.models.tenant
	input.models.owner == input.subject.id
}

include if {
	some binding in data.clave.bindings[input.subject.id]
	binding.role == "auditor"
	binding.tenant == "*"
}
