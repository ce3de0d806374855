"""Microseconds since 1970 and aware UTC datetimes, exactly, before 1970 too."""

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_us(at: datetime) -> int:
    """Give the microseconds since 1970; a naive time is UTC."""
    aware = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return (aware - EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """Give the aware UTC time of microseconds since 1970."""
    return EPOCH + timedelta(microseconds=microseconds)
