"""Builds the FastAPI application of a service: governance, problems, health, metrics, one way for all."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.responses import Response
from starlette.types import Lifespan

from clave_common.access.enforcement import Access, install_access
from clave_common.access.middleware import AccessMiddleware
from clave_common.access.routes import open_route, require_governed_routes
from clave_common.access.verification import CredentialVerifier
from clave_common.body_limit import BodyLimitMiddleware
from clave_common.http_metrics import MetricsMiddleware, record_of
from clave_common.problems import install_problem_handlers
from clave_common.readiness import Check, missing_dependencies
from clave_common.route_index import index_routes


def create_service_app(
    *,
    service: str,
    version: str,
    description: str,
    routers: Sequence[APIRouter],
    access: Access,
    verifier: CredentialVerifier,
    checks: Mapping[str, Check],
    lifespan: Lifespan[FastAPI] | None = None,
    body_bytes_max: int = 8 * 1024 * 1024,
    streaming_prefixes: Sequence[str] = (),
    registry: CollectorRegistry = REGISTRY,
) -> FastAPI:
    """Put a service together.

    Args:
        service: Its name, for example ``registry``.
        version: Of the package.
        description: First text of its OpenAPI document.
        routers: Its routes; each declares its action or is open.
        access: The enforcement point.
        verifier: Turns a request's credential into a caller.
        checks: What must work for the service to be ready, by name.
        lifespan: Opens and closes what the service holds.
        body_bytes_max: Largest body of an ordinary route.
        streaming_prefixes: Paths whose routes count their bytes themselves.
        registry: Metrics to show at ``/metrics``.

    Raises:
        UngovernedRoute: A route declares no action.
    """
    app = FastAPI(
        title=f"clave {service}",
        version=version,
        description=description,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # a redirect is an answer that nobody decided
    )
    install_access(app, access)
    install_problem_handlers(app)
    for router in routers:
        app.include_router(router)
    app.include_router(_operations(service, app, checks, registry))
    app.add_middleware(MetricsMiddleware, record=record_of(service, registry))
    app.add_middleware(BodyLimitMiddleware, bytes_max=body_bytes_max, streaming_prefixes=tuple(streaming_prefixes))
    app.add_middleware(AccessMiddleware, verifier=verifier, service=service, access=access)
    require_governed_routes(app)
    index_routes(app)
    return app


def _operations(service: str, app: FastAPI, checks: Mapping[str, Check], registry: CollectorRegistry) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/v2/health/live", summary="Is the process alive?")
    @open_route
    async def live() -> dict[str, bool]:
        return {"live": True, "ready": True}

    @router.get("/v2/health/ready", summary="Can the service do its work?")
    @open_route
    async def ready() -> Response:
        missing = await missing_dependencies(checks)
        body: dict[str, Any] = {"live": True, "ready": not missing}
        if missing:
            body |= {"error": f"{service} waits for {', '.join(missing)}", "missing": missing}
        return Response(orjson.dumps(body), status_code=503 if missing else 200, media_type="application/json")

    @router.get("/metrics", include_in_schema=False)
    @open_route
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @router.get(f"/api/{service}/v1/openapi.json", include_in_schema=False)
    @open_route
    async def openapi() -> Response:
        return Response(orjson.dumps(app.openapi()), media_type="application/json")

    return router
