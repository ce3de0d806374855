"""When a schedule is due, and what becomes of times that nobody was there for.

Misfires: `coalesce` starts one run for all missed times, `skip` starts none for those that are over.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from clave_common.errors import InvalidArgument

from clave_trainer.domain.cron import BadCron, next_time, parse_cron

INTERVAL_S_MIN = 1.0
INTERVAL_S_MAX = 366 * 86_400.0
_LATE_S_MAX = 60.0  # a fire this late is still on time for `skip`


class BadSchedule(InvalidArgument):
    """The schedule cannot be read."""

    code = "bad_schedule"


class Misfire(StrEnum):
    """What to do about missed times."""

    COALESCE = "coalesce"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class BusinessHours:
    """Days (Monday = 0) and times of day within which a run may start, in the schedule's zone."""

    days: frozenset[int]
    start: time
    end: time

    def cover(self, at: datetime, zone: ZoneInfo) -> bool:
        """Tell whether a moment lies within."""
        local = at.astimezone(zone)
        return local.weekday() in self.days and self.start <= local.time() < self.end


@dataclass(frozen=True, slots=True)
class Timetable:
    """A schedule's rule: either cron or an interval."""

    cron: str | None
    interval_s: float | None
    zone: ZoneInfo
    hours: BusinessHours | None
    misfire: Misfire

    def next_after(self, at: datetime) -> datetime:
        """Return the first due time later than ``at``, aware UTC."""
        if self.cron is not None:
            return next_time(parse_cron(self.cron), at, self.zone)
        return at + timedelta(seconds=self.interval_s or INTERVAL_S_MIN)

    def following(self, due: datetime, now: datetime) -> datetime:
        """Return the due time after one that fires now: missed ones are not made up for."""
        if self.cron is not None:
            return self.next_after(max(due, now))
        step = timedelta(seconds=self.interval_s or INTERVAL_S_MIN)
        missed = max(0, (now - due) // step)
        return due + (missed + 1) * step

    def refusal(self, due: datetime, now: datetime) -> str:
        """Say why a due time starts no run; empty when it does."""
        if self.misfire is Misfire.SKIP and (now - due).total_seconds() > _LATE_S_MAX:
            return f"missed by {(now - due).total_seconds():.0f} s and misfire is skip"
        if self.hours is not None and not self.hours.cover(now, self.zone):
            return "outside business hours"
        return ""


def timetable(
    *,
    cron: str | None,
    interval_s: float | None,
    zone: str,
    misfire: str,
    business_days: list[int] | None = None,
    business_from: str | None = None,
    business_to: str | None = None,
) -> Timetable:
    """Read a schedule.

    Raises:
        BadSchedule: Names the field and the remedy.
    """
    if (cron is None) == (interval_s is None):
        raise BadSchedule("Give either cron or interval_s.", field="cron")
    if interval_s is not None and not INTERVAL_S_MIN <= interval_s <= INTERVAL_S_MAX:
        raise BadSchedule(f"interval_s is {INTERVAL_S_MIN:g} to {INTERVAL_S_MAX:.0f} (a year).", field="interval_s")
    try:
        where = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise BadSchedule(f"zone {zone!r} is no IANA time zone, such as Europe/Zurich.", field="zone") from error
    if cron is not None:
        try:
            next_time(parse_cron(cron), datetime(2026, 1, 1, tzinfo=UTC), where)
        except BadCron as error:
            raise BadSchedule(f"cron {cron!r}: {error}.", field="cron") from error
    hours = None
    if business_days is not None:
        hours = _hours(business_days, business_from or "00:00", business_to or "23:59")
    return Timetable(cron, interval_s, where, hours, Misfire(misfire))


def _hours(days: list[int], start: str, end: str) -> BusinessHours:
    try:
        hours = BusinessHours(frozenset(days), time.fromisoformat(start), time.fromisoformat(end))
    except ValueError as error:
        raise BadSchedule("Business hours are written as 08:00.", field="business_hours") from error
    if not days or not set(days) <= set(range(7)) or hours.start >= hours.end:
        raise BadSchedule(
            "Business days are 0 (Monday) to 6, and the day ends after it starts.", field="business_hours"
        )
    return hours
