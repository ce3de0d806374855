# What one subject may hand to another: scopes of a new key, and a role by a new binding.
#
# Nobody gives more than is held here and now: the giver's role must be bound in this tenant, the giver's own
# credential must cover what is given, a new binding names its tenant (never "*"), and it reaches every
# namespace only if the giver's own does.
package clave.authz

import rego.v1

# ---- scopes of a key

scopes_ok if {
	is_array(input.resource.properties.scopes)
	count(input.resource.properties.scopes) > 0
	every scope in input.resource.properties.scopes { may_give(scope) }
}

may_give(scope) if {
	is_string(scope)
	credential_covers(scope)
	some holder in holders
	some role, tenants in holder
	counts_here(tenants)
	holds(role, scope)
}

counts_here(tenants) if {
	some tenant in tenants_asked
	tenants[tenant]
}

# Outside its own tenant the giver is refused as tenant_mismatch already; that reason stands alone.
counts_here(_) if not tenant_ok

# Verbatim, or a plain action that a held pattern covers, or anything by whoever holds everything.
holds(role, scope) if closure(role).held[scope]

holds(role, scope) if {
	some permission in closure(role).held_patterns
	covers(permission, scope)
}

covers(permission, scope) if permission == scope

covers("**", scope) if is_string(scope)

covers(permission, scope) if {
	is_string(scope)
	not contains(scope, "*")
	matches_action(permission, scope)
}

credential_covers(scope) if {
	is_array(input.context.auth.scopes)
	some own in input.context.auth.scopes
	covers(own, scope)
}

# ---- a role by a binding

binds_role if input.action.name == "admin:binding.create"

binds_role if act.binds_role == true

binding_ok if {
	asked := input.resource.properties.binding
	binding_named(asked)
	administrator_ok(asked)
	every permission, _ in closure(asked.role).held { credential_covers(permission) }
	every roles in reaching(asked) {
		every permission, _ in closure(asked.role).held { held_by(roles, permission) }
	}
}

binding_named(asked) if {
	is_string(asked.subject)
	is_string(asked.role)
	is_object(data.clave.roles[asked.role])
	is_string(asked.tenant)
	asked.tenant != "*"
	asked.tenant == resource_tenant
	is_array(asked.namespaces)
	count(asked.namespaces) > 0
	every namespace in asked.namespaces { known_namespace(namespace) }
	is_array(object.get(asked, "resources", ["**"]))
}

known_namespace("*") if true

known_namespace(namespace) if is_object(data.clave.namespaces[namespace])

# Each part of the new binding, a namespace with a resource, must lie within roles of the giver that hold all of it.
# For most bindings these roles are the same in every part.
reaching(asked) := {roles |
	some namespace in asked.namespaces
	some pattern in object.get(asked, "resources", ["**"])
	roles := {role |
		some holder in holders
		some role, tenants in holder
		some tenant in tenants_asked
		some own in ["*", namespace]
		reaches(tenants[tenant].namespaces[own], pattern)
	}
}

held_by(roles, permission) if {
	some role in roles
	holds(role, permission)
}

# Roles over keys, bindings and policies belong to people: a machine has no second factor to show.
administrator_ok(asked) if startswith(asked.subject, "user:")

administrator_ok(asked) if not administers(asked.role)

administers(role) if {
	some name, entry in data.clave.catalog
	entry.admin_network == true
	some permission, _ in closure(role).held
	matches_action(permission, name)
}
