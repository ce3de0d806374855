"""How a route declares its action.

Every HTTP route either takes ``caller: Caller = governed(action, ...)`` or is marked `open_route`. A service whose
application has any other route does not start, and a request that was answered without a decision is turned into an
error by the middleware.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import Mount

from clave_common.access.enforcement import access_of
from clave_common.access.model import Caller, Resource

_ACTION = "__clave_action__"
_OPEN = "__clave_open_route__"
F = TypeVar("F", bound=Callable[..., Any])


class UngovernedRoute(Exception):
    """An application has a route that declares no action; it must not start."""


def open_route(endpoint: F) -> F:
    """Mark an endpoint that needs no credential: health, the OpenAPI document, nothing else."""
    setattr(endpoint, _OPEN, True)
    return endpoint


def governed(
    action: str,
    *,
    resource_type: str | None = None,
    resource_id: str | None = None,
    in_operation: bool = False,
    listing: bool = False,
    properties: Mapping[str, Any] | None = None,
) -> Any:
    """Declare the action of a route, as the default of its ``caller`` parameter.

    Args:
        action: Name from the catalogue, ``service:object.verb``.
        resource_type: Noun of the resource; the action's own object when absent.
        resource_id: Canonical path with the route's path parameters in braces, ``models/{model}``; the collection
            itself when absent. The caller's tenant is the resource's tenant here.
        in_operation: The decision needs facts that only the operation knows; it calls `Access.require` itself,
            and the middleware refuses the answer if it did not.
        listing: The route lists; whoever may see some rows may ask, and the caller carries which (`Caller.sees`, for
            `clave_common.access.filters.visible_to`).
        properties: What else the policy needs to know of the resource and every request of the route shares.

    Returns:
        A FastAPI dependency that gives the `Caller`, or raises Unauthenticated or PermissionDenied.
    """
    kind = resource_type or action.partition(":")[2].partition(".")[0]
    pattern = resource_id or kind

    async def decide(request: Request) -> Caller:
        access = access_of(request.app)
        caller = access.caller_of(request.scope)
        if in_operation:
            return caller
        known = {**(properties or {}), "tenant": caller.tenant}
        if listing:
            known["listing"] = True
        await access.require(caller, action, Resource(kind, pattern.format(**request.path_params), known))
        return replace(caller, sees=tuple(await access.visible(caller, action))) if listing else caller

    setattr(decide, _ACTION, action)
    return Depends(decide)


def declares_action(call: object) -> bool:
    """Tell whether a dependency is what `governed` made."""
    return hasattr(call, _ACTION)


def is_open(scope: Mapping[str, Any]) -> bool:
    """Tell whether the route that took a request needs no credential."""
    return bool(getattr(scope.get("endpoint"), _OPEN, False))


def route_actions(app: FastAPI) -> Iterator[tuple[str, str, str | None]]:
    """List every route as (methods, path, action); the action is None for an open route.

    Raises:
        UngovernedRoute: A route declares nothing.
    """
    for route in iter_route_contexts(app.routes):
        yield _declared(route)


def _declared(route: RouteContext) -> tuple[str, str, str | None]:
    path = route.path or repr(route.original_route)
    methods = ",".join(sorted(route.methods or ()))
    if getattr(route.endpoint, _OPEN, False):
        return methods, path, None
    if isinstance(route.original_route, Mount):
        raise UngovernedRoute(f"{path} is a mount; mounted applications hide their routes from governance.")
    if isinstance(route.original_route, APIRoute):
        for action in _actions(route.original_route.dependant):
            return methods, path, action
    raise UngovernedRoute(f"{methods} {path} declares no action; give it `governed(...)`.")


def _actions(dependant: Dependant) -> Iterator[str]:
    for child in dependant.dependencies:
        action = getattr(child.call, _ACTION, None)
        if action is not None:
            yield str(action)
        yield from _actions(child)


def require_governed_routes(app: FastAPI) -> list[tuple[str, str, str | None]]:
    """Refuse an application with an undeclared route; return its inventory."""
    return list(route_actions(app))
