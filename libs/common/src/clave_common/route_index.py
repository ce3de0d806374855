"""Finds the route of a request by its path in a table, where the path has no parameters.

FastAPI tries every route of every router in turn, a regular expression each; with a hundred routes that costs more
than the work of a small request. Routes with parameters, methods that a path has not, and everything unknown go the
ordinary way.

A route that takes the request itself and a governed caller, and answers with a response of its own, leaves nothing to
FastAPI but to call the two; such a route is called here, without the resolution of dependencies.
"""

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import cast

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from clave_common.access.routes import declares_action

Endpoint = Callable[..., Awaitable[Response]]


def index_routes(app: FastAPI) -> None:
    """Let an application whose routes are complete find those without parameters at once."""
    table: dict[tuple[str, str], tuple[APIRoute, ASGIApp]] = {}
    for context in iter_route_contexts(app.routes):
        route, path = context.original_route, context.path
        if isinstance(route, APIRoute) and path is not None and path == route.path and "{" not in path:
            handler = _straight(route) or route.app
            for method in route.methods or ():
                table.setdefault((method, path), (route, handler))
    search = app.router.middleware_stack

    async def find(scope: Scope, receive: Receive, send: Send) -> None:
        found = table.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if found is None or scope.get("root_path"):
            await search(scope, receive, send)
            return
        route, handler = found
        scope.update({"router": app.router, "route": route, "endpoint": route.endpoint, "path_params": {}})
        await handler(scope, receive, send)

    app.router.middleware_stack = find


def _straight(route: APIRoute) -> ASGIApp | None:
    """Build the handler of a route that needs nothing of FastAPI; None where it does."""
    needs = route.dependant
    if not _takes_request_and_caller(needs) or not _answers_itself(route):
        return None
    (caller,) = needs.dependencies
    request_name, caller_name = cast("str", needs.request_param_name), cast("str", caller.name)
    decide, endpoint = cast("Callable[[Request], Awaitable[object]]", caller.call), cast("Endpoint", route.endpoint)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        answer = await endpoint(**{request_name: request, caller_name: await decide(request)})
        await answer(scope, receive, send)

    return handle


def _takes_request_and_caller(needs: Dependant) -> bool:
    fields = (needs.query_params, needs.path_params, needs.header_params, needs.cookie_params, needs.body_params)
    special = (
        needs.websocket_param_name,
        needs.http_connection_param_name,
        needs.response_param_name,
        needs.background_tasks_param_name,
        needs.security_scopes_param_name,
    )
    callers = [child for child in needs.dependencies if declares_action(child.call)]
    only_caller = len(callers) == len(needs.dependencies) == 1
    return needs.request_param_name is not None and only_caller and not any(fields) and not any(special)


def _answers_itself(route: APIRoute) -> bool:
    returned = route.endpoint.__annotations__.get("return")
    if not iscoroutinefunction(route.endpoint):
        return False  # FastAPI takes such a one to a thread
    return isinstance(returned, type) and issubclass(returned, Response) and route.status_code is None
