"""A caller's share of rows, spent locally from leases that all processes draw from one place.

The shared store keeps the exact buckets (GCRA): one per key and model, and where they are set one per key, one per
model and one per tenant; a request must find its rows in all of them. A process draws rows in leases of at most
`LEASE_S` seconds' worth and 5% of the burst, so that a high limit costs few round trips and a low one stays exact:
where a lease would hold less than one request, every request asks. What a process drew and did not spend within
`LEASE_LIFE_S` is given up, so processes together never exceed a limit, and fall short of it by at most one lease each.
"""

import math
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

LEASE_S: Final = 0.05
LEASE_LIFE_S: Final = 1.0
_LEASE_SHARE_OF_BURST: Final = 0.05
_LEASE_AHEAD_MIN: Final = 2.0


class Spend(Enum):
    """What became of an attempt to spend rows."""

    GRANTED = auto()
    REFUSED = auto()
    ASK = auto()


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit, shared by every process.

    Attributes:
        key: Where the store keeps it.
        per_second: Rows regained each second, above 0.
        burst: Rows that may go at once, at least 1.
        name: What callers know it as: ``rows`` (key and model), ``rows-key``, ``rows-model``, ``rows-tenant``.
    """

    key: str
    per_second: float
    burst: float
    name: str = "rows"

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1:
            raise ValueError("a budget regains rows and lets at least one go at once")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of the bucket that has the least left.

    Attributes:
        left: Rows that could go now.
        full_in_s: Seconds until the whole burst is there again, rounded up.
    """

    bucket: Bucket
    left: int
    full_in_s: int


@dataclass(slots=True)
class RowBudget:
    """What one caller may still ask of one model, in this process.

    Attributes:
        buckets: Every limit that applies.
        lease_rows: Rows of one lease.
        renew_below: Rows at which the next lease is drawn ahead; 0 where leases are too small for that.
        refused_until: Monotonic seconds before which the store would refuse again; no need to ask.
        refused_by: The bucket that refused last.
        rests: What every bucket held when it was last asked, at `rests_at`.
        told: What callers were last told about it, good until `told_until`.
    """

    buckets: tuple[Bucket, ...]
    left: float = 0.0
    good_until: float = 0.0
    refused_until: float = 0.0
    refused_by: Bucket = field(init=False)
    asking: bool = False
    lease_rows: float = field(init=False)
    renew_below: float = field(init=False)
    rests: tuple[float, ...] = field(init=False)
    rests_at: float = 0.0
    told: bytes = b""
    told_until: float = 0.0

    def __post_init__(self) -> None:
        self.lease_rows = min(
            min(bucket.per_second * LEASE_S, bucket.burst * _LEASE_SHARE_OF_BURST) for bucket in self.buckets
        )
        self.renew_below = self.lease_rows / 2 if self.lease_rows >= _LEASE_AHEAD_MIN else 0.0
        self.refused_by = self.buckets[0]
        self.rests = tuple(bucket.burst for bucket in self.buckets)

    def spend(self, rows: int, now: float) -> Spend:
        """Take rows from the lease at hand."""
        if self.left >= rows and now < self.good_until:
            self.left -= rows
            return Spend.GRANTED
        return Spend.REFUSED if now < self.refused_until else Spend.ASK

    def give_back(self, rows: int) -> None:
        """Take rows back that were spent and did not run."""
        self.left += rows

    def wants_more(self, now: float) -> bool:
        """Whether to draw the next lease before this one runs out."""
        return self.left < self.renew_below and not self.asking and now >= self.refused_until

    def drawn(self, rows: float, now: float, rests: tuple[float, ...]) -> None:
        """Add a lease that the store granted; `rests` is what it left in every bucket."""
        self.left = (self.left if now < self.good_until else 0.0) + rows
        self.good_until = now + LEASE_LIFE_S
        self.rests, self.rests_at = rests, now
        self.told_until = 0.0

    def refused(self, wait_s: float, now: float, which: int) -> None:
        """Remember that a bucket refused, and for how long."""
        self.refused_until = now + wait_s
        self.refused_by = self.buckets[which]

    def standing(self, now: float) -> Standing:
        """Tell what is left, by what this process knows."""
        held = self.left if now < self.good_until else 0.0
        least: Standing | None = None
        for bucket, rest in zip(self.buckets, self.rests, strict=True):
            left = min(bucket.burst, rest + (now - self.rests_at) * bucket.per_second + held)
            if least is None or left < least.left:
                least = Standing(bucket, max(0, int(left)), math.ceil((bucket.burst - left) / bucket.per_second))
        if least is None:
            raise ValueError("a budget has at least one bucket")
        return least
