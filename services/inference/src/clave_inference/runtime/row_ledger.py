"""Where budgets draw their leases: one Redis script for all processes, or each process for itself while Redis is away.

The script is the generic cell rate algorithm (ITU-T I.371) with a cost in rows and a lease on top: it grants what was
asked if the bucket holds it, else what the waiting request needs, else it says how long to wait. Server time only.
"""

import time
from collections.abc import Callable

from clave_common.redis_client import REDIS_AWAY
from prometheus_client import Counter
from redis.asyncio import Redis

from clave_inference.domain.limits import RowBudget

_SCRIPT = """
local now = redis.call('TIME')
local t = now[1] + now[2] / 1000000
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local need, wish = tonumber(ARGV[3]), tonumber(ARGV[4])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), t)
local free = burst - (arrival - t) / interval
if need > burst then free = free + need - burst end
if free + 0.000001 < need then
  return {'0', tostring((need - free) * interval)}
end
local grant = math.max(need, math.min(wish, math.floor(free)))
arrival = arrival + grant * interval
redis.call('SET', KEYS[1], string.format('%.6f', arrival), 'PX', math.ceil((arrival - t) * 1000) + 1)
return {tostring(grant), tostring(burst - (arrival - t) / interval)}
"""
DEGRADED = Counter("clave_inference_rate_limit_degraded_total", "Leases granted without Redis.")


class RowLedger:
    """Grants leases.

    Args:
        redis: Shared store; None grants locally.
        processes: Processes that share the limit, for the time without Redis.
    """

    def __init__(self, redis: Redis | None, *, processes: int = 1, now: Callable[[], float] = time.monotonic) -> None:
        self._script = redis.register_script(_SCRIPT) if redis is not None else None
        self._processes = processes
        self._now = now
        self._away_until = 0.0
        self._local: dict[str, float] = {}

    async def draw(self, budget: RowBudget, rows: int) -> None:
        """Draw a lease of at least `rows` into a budget, or tell it how long to wait.

        A request larger than the burst is let through when the bucket is full, and pays for all its rows.
        """
        budget.asking = True
        try:
            wish = max(rows, int(budget.lease_rows))
            granted, wait_s = await self._ask(budget, rows, wish)
        finally:
            budget.asking = False
        if granted > 0:
            budget.drawn(granted, self._now())
        else:
            budget.refused(wait_s, self._now())

    async def _ask(self, budget: RowBudget, need: int, wish: int) -> tuple[float, float]:
        if self._script is not None and self._now() >= self._away_until:
            try:
                granted, rest = await self._script(
                    keys=[f"clave:rl:rows:{budget.key}"],
                    args=[1 / budget.per_second, budget.burst, need, wish],
                )
                return float(granted), float(rest)
            except REDIS_AWAY:
                self._away_until = self._now() + 1.0  # do not make every request wait for a dead server
        DEGRADED.inc()
        return self._ask_locally(budget, need, wish)

    def _ask_locally(self, budget: RowBudget, need: int, wish: int) -> tuple[float, float]:
        now = self._now()
        interval = self._processes / budget.per_second
        burst = max(1.0, budget.burst / self._processes)
        if len(self._local) > 10_000:  # noqa: PLR2004  far above the keys of a deployment
            self._local = {key: at for key, at in self._local.items() if at > now}
        arrival = max(self._local.get(budget.key, 0.0), now)
        free = burst - (arrival - now) / interval + max(0.0, need - burst)
        if free + 1e-6 < need:
            return 0.0, (need - free) * interval
        grant = max(float(need), min(float(wish), float(int(free))))
        self._local[budget.key] = arrival + grant * interval
        return grant, 0.0
