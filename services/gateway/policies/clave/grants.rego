# What the subject's roles grant, and where: role, tenant, namespace, resource.
#
# A binding is {role, tenant or "*", namespaces or ["*"], resources (default ["**"])}, held by the subject
# or by one of the groups the gateway knows it to be in. Roles a client claims for itself are never read.
package clave.authz

import rego.v1

bindings contains binding if some binding in data.clave.bindings[input.subject.id]

bindings contains binding if {
	is_array(input.subject.properties.groups)
	some group in input.subject.properties.groups
	some binding in data.clave.group_bindings[group]
}

role_grants(role) if closure(role).exact[input.action.name]

role_grants(role) if {
	some pattern in closure(role).patterns
	matches_action(pattern, input.action.name)
}

granting contains binding if {
	some binding in bindings
	role_grants(binding.role)
}

granted if count(granting) > 0

resource_tenant := input.resource.properties.tenant

tenant_ok if {
	is_string(resource_tenant)
	input.subject.properties.tenant == resource_tenant
}

# A role of the whole platform is bound with tenant "*"; the gateway never gives one to a tenant's own subject.
tenant_ok if {
	some binding in granting
	binding.tenant == "*"
}

in_tenant(binding) if binding.tenant == "*"

in_tenant(binding) if binding.tenant == resource_tenant

granting_here contains binding if {
	some binding in granting
	in_tenant(binding)
	in_namespace(binding)
}

granted_here if count(granting_here) > 0

in_namespace(_) if act.namespaced == false

in_namespace(_) if listing

in_namespace(binding) if "*" in binding.namespaces

in_namespace(binding) if input.resource.properties.namespace in binding.namespaces

# A list is asked for as a whole: whoever may read some of its rows may ask, and `data.clave.filters.visible` says
# which rows those are.
listing if {
	input.resource.properties.listing == true
	act.mutating == false
}

resource_bound if listing

resource_bound if {
	canonical_id(input.resource.id)
	some binding in granting_here
	some pattern in object.get(binding, "resources", ["**"])
	matches_resource(pattern, input.resource.id)
}
