"""Counts and times requests by route with prometheus-fastapi-instrumentator, as `/metrics` shows them.

The instrumentator's own middleware looks for the route among all routes before it passes a request on, which costs more
than a small request's work. This one names the route that the router chose, read from the scope after the answer, and
hands the same facts to the instrumentator. Requests that no route took count under ``none``; health and ``/metrics``
itself are left out.
"""

from collections.abc import Callable
from time import perf_counter
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator.metrics import Info, default
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Record = Callable[[Info], None]

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_NO_ROUTE = "none"
_LEFT_OUT = ("/v2/health/", "/metrics")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FAILED = 500

_known: WeakKeyDictionary[CollectorRegistry, dict[str, Record]] = WeakKeyDictionary()


def record_of(service: str, registry: CollectorRegistry) -> Record:
    """Give what records a service's requests in a registry; a second application of one process shares it.

    Args:
        service: Its name; the metrics are called ``clave_<service>_http_...``.
        registry: Where they are shown.
    """
    held = _known.setdefault(registry, {})
    if service not in held:
        record = default(
            metric_namespace="clave", metric_subsystem=service, latency_lowr_buckets=_BUCKETS_S, registry=registry
        )
        if record is None:
            raise RuntimeError(f"the registry already holds metrics of {service} that somebody else made")
        held[service] = record
    return held[service]


class MetricsMiddleware:
    """Pure ASGI; records every request."""

    def __init__(self, app: ASGIApp, *, record: Record) -> None:
        self._app = app
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and watch its answer's head."""
        if scope["type"] != "http" or scope["path"].startswith(_LEFT_OUT):
            await self._app(scope, receive, send)
            return
        answer = Response(status_code=_FAILED)
        began = perf_counter()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status_code = message["status"]
                answer.raw_headers = list(message.get("headers", ()))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._record(_info(scope, answer, seconds=perf_counter() - began))


def _info(scope: Scope, answer: Response, *, seconds: float) -> Info:
    method = scope["method"]
    return Info(
        request=Request(scope),
        response=answer,
        method=method if method in _METHODS else "other",
        modified_handler=getattr(scope.get("route"), "path", _NO_ROUTE),
        modified_status=f"{answer.status_code // 100}xx",
        modified_duration=seconds,
    )
