"""Rate limits that all processes share: GCRA over several keys, decided by one Redis script.

The generic cell rate algorithm (ITU-T I.371) keeps one number per key: the theoretical arrival time of the next
request. All keys of a request are checked before any is charged. Where a limit is high, a process draws several
tokens at once and spends them locally; drawn tokens are charged in advance, so the bound is never exceeded.

Without Redis each process counts alone and grants itself the whole limit: requests go on, and the bound loosens to
the number of processes until Redis is back.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import Counter
from redis.asyncio import Redis

from clave_common.errors import ResourceExhausted
from clave_common.redis_client import REDIS_AWAY

_SCRIPT = """
local now = redis.call('TIME')
local t = now[1] + now[2] / 1000000
local wait = 0
local arrivals = {}
for i, key in ipairs(KEYS) do
  local interval = tonumber(ARGV[i * 3 - 2])
  local tolerance = tonumber(ARGV[i * 3 - 1])
  local cost = tonumber(ARGV[i * 3])
  local arrival = math.max(tonumber(redis.call('GET', key) or '0'), t) + interval * cost
  arrivals[i] = arrival
  wait = math.max(wait, arrival - t - tolerance)
end
if wait > 0.0000001 or ARGV[#KEYS * 3 + 1] == 'look' then
  return tostring(wait)
end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.6f', arrivals[i]), 'PX', math.ceil((arrivals[i] - t) * 1000) + 1)
end
return '0'
"""
_LEASE_SHARE_OF_BURST = 0.02
_LEASE_S = 0.05
_LEASES_MAX = 10_000
_REDIS_S_MAX = 0.2
_ALONE_S = 1.0
_ROUNDING_S = 1e-7
"""The rounding error of sums of intervals."""
DEGRADED = Counter("clave_rate_limit_degraded_total", "Rate-limit checks made without Redis.")


@dataclass(frozen=True, slots=True)
class Limit:
    """One key's limit.

    Attributes:
        key: What is limited, for example ``k:<key id>:predict``.
        per_second: Requests that the key regains each second, above 0.
        burst: Requests that it may make at once, at least 1.
    """

    key: str
    per_second: float
    burst: float

    @property
    def interval_s(self) -> float:
        """Seconds between two requests at the limit."""
        return 1 / self.per_second

    @property
    def tolerance_s(self) -> float:
        """Seconds by which requests may run ahead."""
        return max(self.burst, 1) * self.interval_s

    @property
    def lease(self) -> int:
        """Requests drawn at once: 1 for a low limit, a twentieth of a second's worth for a high one."""
        return max(1, int(min(self.per_second * _LEASE_S, self.burst * _LEASE_SHARE_OF_BURST)))


class RateLimiter:
    """Checks and charges limits; shared through Redis, alone without it."""

    def __init__(
        self, redis: Redis | None, *, prefix: str = "clave:rl:", now: Callable[[], float] = time.monotonic
    ) -> None:
        self._prefix = prefix
        self._now = now
        self._script = redis.register_script(_SCRIPT) if redis is not None else None
        self._leases: OrderedDict[tuple[Limit, ...], tuple[float, int]] = OrderedDict()
        self._local: OrderedDict[str, float] = OrderedDict()
        self._alone_until = 0.0

    async def take(self, limits: Sequence[Limit]) -> None:
        """Charge one request to every limit, or to none.

        Raises:
            ResourceExhausted: One limit is used up; carries the seconds to wait.
        """
        asked = tuple(limits)
        good_until, left = self._leases.get(asked, (0.0, 0))
        now = self._now()
        if left > 0 and now < good_until:
            self._leases[asked] = (good_until, left - 1)
            return
        lease = min(limit.lease for limit in asked)
        wait_s = await self._charge(asked, lease)
        if wait_s > 0 and lease > 1:
            lease, wait_s = 1, await self._charge(asked, 1)
        if wait_s > 0:
            raise exhausted(asked, wait_s)
        if lease > 1:
            self._keep(asked, now + 1.0, lease - 1)

    async def wait_s(self, limits: Sequence[Limit]) -> float:
        """Look without charging: the seconds until every limit has room for one request, 0 where all have it now."""
        wait_s = await self._charge(tuple(limits), 1, looking=True)
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def _keep(self, asked: tuple[Limit, ...], good_until: float, left: int) -> None:
        self._leases[asked] = (good_until, left)
        self._leases.move_to_end(asked)
        if len(self._leases) > _LEASES_MAX:
            self._leases.popitem(last=False)

    async def _charge(self, limits: tuple[Limit, ...], cost: int, *, looking: bool = False) -> float:
        if self._script is not None and self._now() >= self._alone_until:
            arguments: list[str | float] = [
                part for limit in limits for part in (limit.interval_s, limit.tolerance_s, cost)
            ]
            if looking:
                arguments.append("look")
            try:
                async with asyncio.timeout(_REDIS_S_MAX):
                    answer = await self._script(keys=[self._prefix + limit.key for limit in limits], args=arguments)
                return float(answer)
            except (*REDIS_AWAY, TimeoutError):
                DEGRADED.inc()
                self._alone_until = self._now() + _ALONE_S
        return self._charge_locally(limits, cost, looking=looking)

    def _charge_locally(self, limits: tuple[Limit, ...], cost: int, *, looking: bool) -> float:
        now = self._now()
        arrivals = [max(self._local.get(limit.key, 0.0), now) + limit.interval_s * cost for limit in limits]
        wait_s = max(at - now - limit.tolerance_s for at, limit in zip(arrivals, limits, strict=True))
        if wait_s > _ROUNDING_S or looking:
            return wait_s
        for limit, at in zip(limits, arrivals, strict=True):
            self._local[limit.key] = at
            self._local.move_to_end(limit.key)
        while len(self._local) > _LEASES_MAX:
            self._local.popitem(last=False)
        return 0.0


def exhausted(limits: Sequence[Limit], wait_s: float) -> ResourceExhausted:
    """Build the refusal with what the caller needs to behave: the limit and the exact wait."""
    tightest = min(limits, key=lambda limit: limit.per_second)
    return ResourceExhausted(
        f"The limit of {tightest.per_second * 60:g} requests a minute is used up; try again in {wait_s:.2f} s.",
        code="rate_limited",
        retry_after_s=wait_s,
        per_minute=tightest.per_second * 60,
        burst=tightest.burst,
    )
