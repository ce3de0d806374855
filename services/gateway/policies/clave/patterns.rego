# Which names a pattern covers.
#
# Actions: "**" covers all, a name covers itself, one trailing "*" covers the rest of its segment (it
# never crosses a ":"). Resources are matched in `holdings.rego`: "**", the id itself, or "prefix/**" for
# what lies strictly below.
# glob.match is avoided: OPA and regorus read "*" against "a:b" differently.
package clave.authz

import rego.v1

matches_action("**", name) if is_string(name)

matches_action(pattern, name) if {
	is_string(pattern)
	pattern == name
}

matches_action(pattern, name) if {
	is_string(pattern)
	is_string(name)
	endswith(pattern, "*")
	prefix := trim_suffix(pattern, "*")
	startswith(name, prefix)
	not contains(trim_prefix(name, prefix), ":")
}

# The enforcement point normalises ids; the policy still refuses an odd one.
canonical_id(id) if {
	is_string(id)
	regex.match(`^[A-Za-z0-9_][A-Za-z0-9_.@-]*(/[A-Za-z0-9_][A-Za-z0-9_.@-]*)*$`, id)
}
