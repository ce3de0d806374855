"""Slows down whoever guesses credentials: a leaky bucket of failures per address, in this process.

Only failures count, so a wrong neighbour behind the same address never locks a valid key out. An IPv6 client has
2^64 addresses to itself; they count as one.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

_IPV6_CLIENT_BITS = 64


def place_of(address: str) -> str:
    """Name where failures are counted: an IPv4 address, the network of an IPv6 one, or what else it is as it stands."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found.packed, _IPV6_CLIENT_BITS), strict=False))


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
