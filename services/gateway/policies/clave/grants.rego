# What the subject's roles grant, and where: role, tenant, namespace, resource.
#
# A binding is {role, tenant or "*", namespaces or ["*"], resources (default ["**"])}, held by the subject
# or by one of the groups the gateway knows it to be in. Roles a client claims for itself are never read.
# What somebody holds is asked by role, tenant and namespace (`holdings.rego`), so that a thousand bindings
# cost a decision no more than one.
package clave.authz

import rego.v1

# Of each holding whose role grants the action: by tenant, what it reaches.
granting := [tenants |
	some holder in holders
	some role, tenants in holder
	granting_roles[role]
]

granted if count(granting) > 0

resource_tenant := input.resource.properties.tenant

tenant_ok if {
	is_string(resource_tenant)
	input.subject.properties.tenant == resource_tenant
}

# A role of the whole platform is bound with tenant "*"; the gateway never gives one to a tenant's own subject.
tenant_ok if {
	some tenants in granting
	tenants["*"]
}

default tenants_asked := ["*"]

tenants_asked := ["*", resource_tenant]

default namespaces_asked := ["*"]

namespaces_asked := ["*", input.resource.properties.namespace]

# What the granting roles reach in this tenant and namespace; in any namespace where the action has none.
within_reach := [held.anywhere |
	some tenants in granting
	some tenant in tenants_asked
	held := tenants[tenant]
	is_object(held)
] if anywhere

within_reach := [reach |
	some tenants in granting
	some tenant in tenants_asked
	some namespace in namespaces_asked
	reach := tenants[tenant].namespaces[namespace]
	is_object(reach)
] if not anywhere

anywhere if act.namespaced == false

anywhere if listing

granted_here if count(within_reach) > 0

# A list is asked for as a whole: whoever may read some of its rows may ask, and `data.clave.filters.visible` says
# which rows those are.
listing if {
	input.resource.properties.listing == true
	act.mutating == false
}

resource_bound if listing

resource_bound if {
	canonical_id(input.resource.id)
	some reach in within_reach
	reaches(reach, input.resource.id)
}
