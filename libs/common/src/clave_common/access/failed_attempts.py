"""Slows down whoever guesses credentials: a leaky bucket of failures per address, in this process.

Only failures count, so a wrong neighbour behind the same address never locks a valid key out.
"""

import time
from collections import OrderedDict
from collections.abc import Callable


class FailedAttempts:
    """Counts failures per address with a bounded memory.

    Args:
        burst: Failures that an address may have at once.
        per_second: Failures that are forgotten each second.
        addresses_max: Addresses remembered; the longest quiet one is forgotten first.
    """

    def __init__(
        self,
        *,
        burst: float = 300,
        per_second: float = 10,
        addresses_max: int = 10_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.burst = burst
        self.per_second = per_second
        self._tolerance_s = burst / per_second
        self._interval_s = 1 / per_second
        self._addresses_max = addresses_max
        self._now = now
        self._free_at: OrderedDict[str, float] = OrderedDict()

    def note(self, address: str) -> float:
        """Count one failure.

        Returns:
            Seconds to wait before the next try, 0 while the address is within its allowance.
        """
        now = self._now()
        free_at = max(self._free_at.get(address, now), now) + self._interval_s
        over_s = free_at - now - self._tolerance_s
        if over_s <= 0:
            self._free_at[address] = free_at
            self._free_at.move_to_end(address)
            if len(self._free_at) > self._addresses_max:
                self._free_at.popitem(last=False)
        return max(over_s, 0.0)
