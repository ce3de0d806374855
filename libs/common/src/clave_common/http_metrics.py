"""Counts and times requests by route, as `/metrics` shows them.

The route is the one that the router chose, read from the scope after the answer; looking for it a second time costs
more than a small request's work. Requests that no route took count under ``none``; health and ``/metrics`` itself are
left out. Names and labels are those of prometheus-fastapi-instrumentator, which dashboards know.
"""

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import NamedTuple
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FINE_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60)
_NO_ROUTE = "none"
_LEFT_OUT = ("/v2/health/", "/metrics")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FAILED = 500


class _Meters(NamedTuple):
    """Where the figures of one kind of request go."""

    counted: Callable[[], None]
    took: Callable[[float], None]
    took_fine: Callable[[float], None]
    received: Callable[[float], None]
    sent: Callable[[float], None]


class HttpMetrics:
    """The request metrics of one service in one registry."""

    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        prefix = f"clave_{service}_http"
        self._total = Counter(
            f"{prefix}_requests_total",
            "Requests by method, class of status and route.",
            ["method", "status", "handler"],
            registry=registry,
        )
        self._received = Summary(
            f"{prefix}_request_size_bytes", "Announced bytes of requests by route.", ["handler"], registry=registry
        )
        self._sent = Summary(
            f"{prefix}_response_size_bytes", "Announced bytes of answers by route.", ["handler"], registry=registry
        )
        self._fine = Histogram(
            f"{prefix}_request_duration_highr_seconds",
            "Seconds of all requests, in fine steps.",
            buckets=_FINE_BUCKETS_S,
            registry=registry,
        )
        self._took = Histogram(
            f"{prefix}_request_duration_seconds",
            "Seconds of requests by method and route.",
            ["method", "handler"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._meters: dict[tuple[str, int, str], _Meters] = {}

    def note(self, key: tuple[str, int, str], *, seconds: float, received: int, sent: int) -> None:
        """Note one request; the key is its method, the first digit of its status, and its route."""
        meters = self._meters.get(key)
        if meters is None:
            meters = self._meters[key] = self._meters_of(*key)
        meters.counted()
        meters.took(seconds)
        meters.took_fine(seconds)
        meters.received(received)
        meters.sent(sent)

    def _meters_of(self, method: str, status_class: int, route: str) -> _Meters:
        return _Meters(
            counted=self._total.labels(method, f"{status_class}xx", route).inc,
            took=self._took.labels(method, route).observe,
            took_fine=self._fine.observe,
            received=self._received.labels(route).observe,
            sent=self._sent.labels(route).observe,
        )


_known: WeakKeyDictionary[CollectorRegistry, dict[str, HttpMetrics]] = WeakKeyDictionary()


def metrics_of(service: str, registry: CollectorRegistry) -> HttpMetrics:
    """Give a service's metrics in a registry; a second application of one process shares them."""
    held = _known.setdefault(registry, {})
    if service not in held:
        held[service] = HttpMetrics(service, registry)
    return held[service]


class MetricsMiddleware:
    """Pure ASGI; notes every request that a route took."""

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and watch its answer's head."""
        if scope["type"] != "http" or scope["path"].startswith(_LEFT_OUT):
            await self._app(scope, receive, send)
            return
        status, sent, began = _FAILED, 0, perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status, sent = message["status"], _announced(message.get("headers", ()))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route, method = getattr(scope.get("route"), "path", _NO_ROUTE), scope["method"]
            self._metrics.note(
                (method if method in _METHODS else "other", status // 100, route),
                seconds=perf_counter() - began,
                received=_announced(scope["headers"]),
                sent=sent,
            )


def _announced(headers: Iterable[tuple[bytes, bytes]]) -> int:
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
