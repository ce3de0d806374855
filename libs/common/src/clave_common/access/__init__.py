"""Who is asking, what the policy says, and how a route asks it.

`model` holds the nouns, `routes` how a route declares its action, `enforcement` the question itself, `engine` the
policy engines, `snapshot` the service's own copy of keys and policy, `credentials` and `service_tokens` how callers
prove who they are, `middleware` and `grpc` the two doors.
"""

from clave_common.access.enforcement import Access
from clave_common.access.model import Caller, Decision, Resource
from clave_common.access.routes import governed, open_route

__all__ = ["Access", "Caller", "Decision", "Resource", "governed", "open_route"]
