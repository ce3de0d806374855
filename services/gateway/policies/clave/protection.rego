# What an action demands beyond a grant: a service identity, a second factor, the admin network, no lockdown.
package clave.authz

import rego.v1

internal_ok if {
	input.subject.type == "service"
	input.context.auth.method in {"mtls", "internal_jwt"}
}

# ---- second factor: enforced unless the setting is exactly false

default mfa_enforced := true

mfa_enforced := false if data.clave.settings.mfa_enforced == false

machine if input.subject.type in {"service_account", "app", "service"}

mfa_ok if not mfa_enforced

mfa_ok if "mfa" in input.context.auth.amr

# Machines have no second factor; scopes and networks bound them. A machine that holds a role over
# the rules themselves is not exempt: that role was bound to it by mistake.
mfa_ok if {
	machine
	not machine_administers
}

machine_administers if {
	act.admin_network == true
	granted
}

# ---- network

network_ok if {
	some network in data.clave.admin_networks
	is_string(input.context.source_ip)
	regex.match(`^[0-9a-fA-F:.]{2,45}$`, input.context.source_ip)
	net.cidr_contains(network, input.context.source_ip)
}

# ---- lockdown: nothing changes but what the data exempt. The default data let an operator return to a
# version that served before and let services report what is; a new rule or model waits.

default lockdown_exempt := ["admin:*"]

lockdown_exempt := data.clave.settings.lockdown_exempt if is_array(data.clave.settings.lockdown_exempt)

lockdown_ok if data.clave.lockdown == false

lockdown_ok if act.mutating == false

# All of administration may be exempt, an action that the catalogue lacks included.
lockdown_ok if {
	"admin:*" in lockdown_exempt
	is_string(input.action.name)
	startswith(input.action.name, "admin:")
}

lockdown_ok if {
	known_action
	some pattern in lockdown_exempt
	matches_action(pattern, input.action.name)
}
