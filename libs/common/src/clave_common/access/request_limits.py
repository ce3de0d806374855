"""Which limits a request is charged to: the caller's, its tenant's, the model's and the route class's, all at once.

The policy's obligation says how much one credential may ask; the policy's data may bound tenants, models and route
classes besides (``rate_limits``). One script checks every key of a request before it charges any. Services are not
limited; the callers they act for were.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from clave_common.access.model import Caller, Decision, Resource
from clave_common.access.ratelimit import Limit, RateLimiter

RouteClass = Literal["predict", "read", "write"]
_PER_MINUTE = 60.0
_MODEL_SEGMENTS = 2
_PREDICT = "inference:predict"


class RequestLimits:
    """Charges the limits of one service's requests.

    Args:
        limiter: Shared by all processes.
        data: The policy's data in force.
    """

    def __init__(self, limiter: RateLimiter, *, data: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._limiter = limiter
        self._data = data

    async def charge(self, caller: Caller, action: str, resource: Resource, decision: Decision) -> None:
        """Charge one allowed request.

        Raises:
            ResourceExhausted: A limit is used up; nothing was charged.
        """
        limits = limits_of(caller, action, resource, decision, self._data())
        if limits:
            await self._limiter.take(limits)


def limits_of(
    caller: Caller, action: str, resource: Resource, decision: Decision, data: Mapping[str, Any] | None = None
) -> list[Limit]:
    """Name the limits of one request; none for a service or where the policy sets none.

    Args:
        caller: Who asks.
        action: From the catalogue.
        resource: What is asked for.
        decision: The policy's answer with its `rate_limit`.
        data: The policy's data; ``rate_limits`` holds ``tenant``, ``model`` and ``classes``, each {per_minute, burst}.
    """
    rate = decision.rate_limit
    if rate is None or caller.subject_type == "service" or rate.per_minute <= 0:
        return []
    data = data or {}
    shared = data.get("rate_limits", {})
    kind = route_class(action, data)
    who = caller.key_id or caller.subject_id
    own = f"{caller.tenant}:{who}:{'predict' if kind == 'predict' else 'api'}"
    wanted: list[tuple[str, Any]] = [
        (f"{caller.tenant}:{who}:{kind}", shared.get("classes", {}).get(kind)),
        (f"{caller.tenant}:tenant", shared.get("tenant")),
    ]
    if kind == "predict":
        model = "/".join(resource.id.split("/")[:_MODEL_SEGMENTS])
        own = f"{own}:{model}"
        wanted.append((f"{caller.tenant}:{model}", shared.get("model")))
    limits = [Limit(own, rate.per_minute / _PER_MINUTE, rate.burst)]
    return limits + [
        Limit(f"{key}:all", entry["per_minute"] / _PER_MINUTE, entry["burst"]) for key, entry in wanted if entry
    ]


def route_class(action: str, data: Mapping[str, Any]) -> RouteClass:
    """Tell predictions, reads and changes apart; an unknown action counts as a change."""
    if action == _PREDICT:
        return "predict"
    entry = data.get("catalog", {}).get(action, {})
    return "read" if entry.get("mutating") is False else "write"
