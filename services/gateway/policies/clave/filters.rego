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
	may_list
	some tenants in authz.granting
	some tenant in ["*", input.subject.properties.tenant]
	some held in tenants[tenant].clauses
	clause := {
		"tenant": reach(tenant),
		"namespaces": held.namespaces,
		"resources": held.resources,
	}
}

may_list if {
	authz.well_formed
	authz.authenticated
	authz.subject_active
	authz.credential_fresh
	authz.scope_ok
	not refused
}

refused if {
	authz.demands.internal
	not authz.internal_ok
}

refused if {
	authz.demands.mfa
	not authz.mfa_ok
}

refused if {
	authz.demands.admin_network
	not authz.network_ok
}

reach(tenant) := null if tenant == "*"

reach(tenant) := tenant if tenant != "*"

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
