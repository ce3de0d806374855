"""Who is asking, what the policy says, and how a route asks it.

`model` holds the nouns, `routes` how a route declares its action, `enforcement` the question itself, `engine` the
policy engines, `snapshot` the service's own copy of keys and policy, `credentials` and `service_tokens` how callers
prove who they are, `middleware` the HTTP door.
"""

from typing import TYPE_CHECKING, Any

from clave_common.access.model import Caller, Decision, Resource

if TYPE_CHECKING:
    from clave_common.access.enforcement import Access
    from clave_common.access.routes import governed, open_route

__all__ = ["Access", "Caller", "Decision", "Resource", "governed", "open_route"]


def __getattr__(name: str) -> Any:
    """Import what needs FastAPI only where it is asked for: a worker that serves nothing saves 19 MB."""
    if name == "Access":
        from clave_common.access.enforcement import Access  # noqa: PLC0415 - see above

        return Access
    if name in {"governed", "open_route"}:
        from clave_common.access import routes  # noqa: PLC0415 - see above

        return getattr(routes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
