"""Finds the route of a request by its path in a table, where the path has no parameters.

FastAPI tries every route of every router in turn, a regular expression each; with a hundred routes that costs more
than the work of a small request. Routes with parameters, methods that a path has not, and everything unknown go the
ordinary way.
"""

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.types import ASGIApp, Receive, Scope, Send


def index_routes(app: FastAPI) -> None:
    """Let an application whose routes are complete find those without parameters at once."""
    table: dict[tuple[str, str], tuple[APIRoute, ASGIApp]] = {}
    for context in iter_route_contexts(app.routes):
        route, path = context.original_route, context.path
        if isinstance(route, APIRoute) and path is not None and path == route.path and "{" not in path:
            for method in route.methods or ():
                table.setdefault((method, path), (route, route.app))
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
