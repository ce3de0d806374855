"""Where budgets draw their leases: one Redis script for all processes, or each process for itself while Redis is away.

The script is the generic cell rate algorithm (ITU-T I.371) with a cost in rows and a lease on top, over all the buckets
of a budget at once: it grants what was asked if every bucket holds it, else what the waiting request needs, else it
takes from none and says which one refused and how long to wait. Server time only.

Where leases are held, one draw at a time is under way for a budget, and whoever finds the lease spent meanwhile waits
for it. Sixty-four requests at once would else draw sixty-four leases, let most of them lapse, and soon be refused below
their limit.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from clave_common.redis_client import REDIS_AWAY
from prometheus_client import Counter
from redis.asyncio import Redis

from clave_inference.domain.limits import Bucket, RowBudget

_SCRIPT: Final = """
local now = redis.call('TIME')
local t = now[1] + now[2] / 1000000
local need, grant = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrivals, wait, refuser = {}, -1, 0
for i, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  arrivals[i] = math.max(tonumber(redis.call('GET', key) or '0'), t)
  local free = burst - (arrivals[i] - t) / interval
  if need > burst then free = free + need - burst end
  if free + 0.000001 < need then
    local longer = (need - free) * interval
    if longer > wait then wait, refuser = longer, i end
  end
  grant = math.min(grant, math.floor(free + 0.000001))
end
if wait >= 0 then return {'0', tostring(wait), tostring(refuser - 1)} end
grant = math.max(need, grant)
local answer = {tostring(grant)}
for i, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  local arrival = arrivals[i] + grant * interval
  redis.call('SET', key, string.format('%.6f', arrival), 'PX', math.ceil((arrival - t) * 1000) + 1)
  answer[i + 1] = tostring(burst - (arrival - t) / interval)
end
return answer
"""
_LOCAL_MAX: Final = 10_000
_AWAY_S: Final = 1.0
_ANSWER_S_MAX: Final = 0.2  # a server that hangs must not hold predictions up
DEGRADED = Counter("clave_inference_rate_limit_degraded_total", "Leases granted without Redis.")


@dataclass(frozen=True, slots=True)
class _Refusal:
    wait_s: float
    which: int


@dataclass(frozen=True, slots=True)
class _Grant:
    rows: float
    rests: tuple[float, ...]


class RowLedger:
    """Grants leases.

    Args:
        redis: Shared store; None grants locally.
        processes: Processes that share the limits, for the time without Redis.
    """

    def __init__(self, redis: Redis | None, *, processes: int = 1, now: Callable[[], float] = time.monotonic) -> None:
        self._script = redis.register_script(_SCRIPT) if redis is not None else None
        self._processes = processes
        self._now = now
        self._away_until = 0.0
        self._local: dict[str, float] = {}
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._wanted: dict[str, int] = {}

    async def draw(self, budget: RowBudget, rows: int) -> None:
        """Draw a lease of at least `rows` into a budget, or tell it how long to wait; look into the budget again then.

        A request larger than a burst is let through when the bucket is full, and pays for all its rows.
        """
        if not budget.renew_below:  # no lease is held: every request asks for itself
            await self._draw(budget, rows, max(rows, int(budget.lease_rows)))
            return
        key = budget.buckets[0].key
        self._wanted[key] = self._wanted.get(key, 0) + rows
        try:
            under_way = self._under_way.get(key)
            if under_way is not None:
                await asyncio.shield(under_way)
                return
            done = self._under_way[key] = asyncio.get_running_loop().create_future()
            try:
                await self._draw(budget, rows, max(self._wanted[key], int(budget.lease_rows)))
            finally:
                del self._under_way[key]
                done.set_result(None)
        finally:
            self._wanted[key] -= rows
            if not self._wanted[key]:
                del self._wanted[key]

    async def _draw(self, budget: RowBudget, rows: int, wish: int) -> None:
        budget.asking = True
        try:
            outcome = await self._ask(budget, rows, wish)
        finally:
            budget.asking = False
        now = self._now()
        match outcome:
            case _Grant():
                budget.drawn(outcome.rows, now, outcome.rests)
            case _Refusal():
                budget.refused(outcome.wait_s, now, outcome.which)

    async def _ask(self, budget: RowBudget, need: int, wish: int) -> _Grant | _Refusal:
        if self._script is not None and self._now() >= self._away_until:
            arguments: list[float] = [need, wish]
            for bucket in budget.buckets:
                arguments += (1 / bucket.per_second, bucket.burst)
            try:
                async with asyncio.timeout(_ANSWER_S_MAX):
                    granted, *rest = await self._script(
                        keys=[f"clave:rl:rows:{bucket.key}" for bucket in budget.buckets], args=arguments
                    )
            except (*REDIS_AWAY, TimeoutError):
                self._away_until = self._now() + _AWAY_S  # do not make every request wait for a dead server
            else:
                if float(granted) > 0:
                    return _Grant(float(granted), tuple(float(left) for left in rest))
                return _Refusal(float(rest[0]), int(rest[1]))
        DEGRADED.inc()
        return self._ask_locally(budget.buckets, need, wish)

    def _ask_locally(self, buckets: tuple[Bucket, ...], need: int, wish: int) -> _Grant | _Refusal:
        """Do what the script does, with this process's share of every limit."""
        now = self._now()
        if len(self._local) > _LOCAL_MAX:
            self._local = {key: at for key, at in self._local.items() if at > now}
        grant = float(wish)
        refusal: _Refusal | None = None
        for which, bucket in enumerate(buckets):
            interval, burst = self._share(bucket)
            arrival = max(self._local.get(bucket.key, 0.0), now)
            free = burst - (arrival - now) / interval + max(0.0, need - burst)
            if free + 1e-6 < need and (refusal is None or (need - free) * interval > refusal.wait_s):
                refusal = _Refusal((need - free) * interval, which)
            grant = min(grant, float(int(free + 1e-6)))
        if refusal is not None:
            return refusal
        grant = max(float(need), grant)
        rests: list[float] = []
        for bucket in buckets:
            interval, burst = self._share(bucket)
            arrival = max(self._local.get(bucket.key, 0.0), now) + grant * interval
            self._local[bucket.key] = arrival
            rests.append(burst - (arrival - now) / interval)
        return _Grant(grant, tuple(rests))

    def _share(self, bucket: Bucket) -> tuple[float, float]:
        return self._processes / bucket.per_second, max(1.0, bucket.burst / self._processes)
