# How much a tenant's training may take: cores, run time, jobs at once.
package clave.authz

import rego.v1

quota_ok if {
	quota := data.clave.quotas[resource_tenant]
	within(input.resource.properties.request.cpus, 1, quota.cpus)
	within(input.resource.properties.request.max_runtime_s, 1, quota.max_runtime_s)
	is_number(quota.max_jobs)
	within(input.context.running_jobs, 0, quota.max_jobs - 1)
}

within(value, low, high) if {
	is_number(value)
	is_number(high)
	value >= low
	value <= high
}
