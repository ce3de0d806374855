"""A caller's share of rows, spent locally from leases that all processes draw from one place.

The shared store keeps the exact bucket (GCRA). A process draws rows from it in leases of at most `lease_s` seconds'
worth, so that a high limit costs few round trips and a low one stays exact: where a lease would hold less than one
request, every request asks. What a process drew and did not spend within `LEASE_LIFE_S` is given up, so processes
together never exceed the limit, and fall short of it by at most one lease each.
"""

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


@dataclass(slots=True)
class RowBudget:
    """One caller's budget on one model, in this process.

    Attributes:
        per_second: Rows regained each second, above 0.
        burst: Rows that may go at once, at least 1.
        lease_rows: Rows of one lease.
        renew_below: Rows at which the next lease is drawn ahead; 0 where leases are too small for that.
        refused_until: Monotonic seconds before which the store would refuse again; no need to ask.
    """

    key: str
    per_second: float
    burst: float
    left: float = 0.0
    good_until: float = 0.0
    refused_until: float = 0.0
    asking: bool = False
    lease_rows: float = field(init=False)
    renew_below: float = field(init=False)

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1:
            raise ValueError("a budget regains rows and lets at least one go at once")
        self.lease_rows = min(self.per_second * LEASE_S, self.burst * _LEASE_SHARE_OF_BURST)
        self.renew_below = self.lease_rows / 2 if self.lease_rows >= _LEASE_AHEAD_MIN else 0.0

    def spend(self, rows: int, now: float) -> Spend:
        """Take rows from the lease at hand."""
        if self.left >= rows and now < self.good_until:
            self.left -= rows
            return Spend.GRANTED
        return Spend.REFUSED if now < self.refused_until else Spend.ASK

    def wants_more(self, now: float) -> bool:
        """Whether to draw the next lease before this one runs out."""
        return self.left < self.renew_below and not self.asking and now >= self.refused_until

    def drawn(self, rows: float, now: float) -> None:
        """Add a lease that the store granted."""
        self.left = (self.left if now < self.good_until else 0.0) + rows
        self.good_until = now + LEASE_LIFE_S

    def refused(self, wait_s: float, now: float) -> None:
        """Remember that the store refused, and for how long."""
        self.refused_until = now + wait_s
