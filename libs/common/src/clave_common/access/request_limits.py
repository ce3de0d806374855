"""Which limits a request is charged to: the caller's, and the model's where its card sets the pace.

The policy says how much (its `rate_limit` obligation), this module says whose: per credential and route class, and
for predictions per model as well. Services are not limited; the callers they act for were.
"""

from clave_common.access.model import Caller, Decision, Resource
from clave_common.access.ratelimit import Limit, RateLimiter

_PER_MINUTE = 60.0
_MODEL_SEGMENTS = 2


class RequestLimits:
    """Charges the limits of one service's requests."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    async def charge(self, caller: Caller, action: str, resource: Resource, decision: Decision) -> None:
        """Charge one allowed request.

        Raises:
            ResourceExhausted: A limit is used up; nothing was charged.
        """
        limits = limits_of(caller, action, resource, decision)
        if limits:
            await self._limiter.take(limits)


def limits_of(caller: Caller, action: str, resource: Resource, decision: Decision) -> list[Limit]:
    """Name the limits of one request; none for a service or where the policy sets none."""
    rate = decision.rate_limit
    if rate is None or caller.subject_type == "service" or rate.per_minute <= 0:
        return []
    per_second = rate.per_minute / _PER_MINUTE
    who = caller.key_id or caller.subject_id
    if action == "inference:predict":
        model = "/".join(resource.id.split("/")[:_MODEL_SEGMENTS])
        return [Limit(f"{caller.tenant}:{who}:predict:{model}", per_second, rate.burst)]
    return [Limit(f"{caller.tenant}:{who}:api", per_second, rate.burst)]
