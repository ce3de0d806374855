# When a change may happen: windows per namespace (UTC), freezes, and break glass.
#
# Break glass opens the window and nothing else: approvals, signature, gate and duties stay.
package clave.authz

import rego.v1

now_ns := now * 1000000000

weekday := time.weekday(now_ns)

clock := time.clock(now_ns)

minute_of_day := (clock[0] * 60) + clock[1]

window_ok if {
	is_array(ns_rules.windows)
	count(ns_rules.windows) == 0
	is_number(now)
}

window_ok if {
	in_window
	not frozen
}

window_ok if break_glass

in_window if {
	some window in ns_rules.windows
	weekday in window.days
	is_number(window.from_minute)
	is_number(window.to_minute)
	minute_of_day >= window.from_minute
	minute_of_day < window.to_minute
}

# The end of a freeze is outside of it.
frozen if {
	some freeze in data.clave.freezes
	now >= freeze.from
	now < freeze.until
}

break_glass if {
	is_string(input.context.break_glass.ticket)
	is_string(input.context.break_glass.reason)
	regex.match(`^INC-[0-9]{4,10}$`, input.context.break_glass.ticket)
	count(trim_space(input.context.break_glass.reason)) >= 10
	"mfa" in input.context.auth.amr
	some holder in holders
	some role, tenants in holder
	closure(role).roles["incident-commander"]
	some tenant in tenants_asked
	tenants[tenant]
}
