"""Time as services see it: aware UTC, from one object that tests can replace."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where a service asks for the time."""

    def now(self) -> datetime:
        """Return the current time, aware and in UTC."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the machine's time, aware and in UTC."""
        return datetime.now(UTC)


class FixedClock:
    """A clock that tests set by hand."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        """Return the time that was set."""
        return self.at
