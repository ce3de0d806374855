"""Five-field cron expressions: minute, hour, day of month, month, day of week, in a zone's wall clock.

As in Vixie cron, a day matches when day of month OR day of week match, if both are restricted. A wall-clock time
that a change to summer time skips does not fire; one that comes twice fires once.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

_FIELDS: Final = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_NAMES: Final[dict[str, dict[str, int]]] = {
    "month": {
        name: number
        for number, name in enumerate(
            ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
        )
    },
    "weekday": {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))},
}
_SEARCH_DAYS_MAX: Final = 366 * 5


class BadCron(ValueError):
    """The expression cannot be read, or names a day that never comes."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression; weekdays count from Sunday = 0."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool

    def on(self, at: datetime) -> bool:
        """Tell whether the day of ``at`` matches."""
        if at.month not in self.months:
            return False
        by_day, by_weekday = at.day in self.days, at.isoweekday() % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday


def parse_cron(expression: str) -> Cron:
    """Read an expression such as ``30 2 * * mon-fri``.

    Raises:
        BadCron: Names the field and what is wrong with it.
    """
    fields = expression.lower().split()
    if len(fields) != len(_FIELDS):
        msg = f"a cron expression has five fields, {expression!r} has {len(fields)}"
        raise BadCron(msg)
    values = [_field(text, *limits) for text, limits in zip(fields, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = values
    return Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        any_day=fields[2].startswith("*"),
        any_weekday=fields[4].startswith("*"),
    )


def _field(text: str, name: str, low: int, high: int) -> set[int]:
    values: set[int] = set()
    for part in text.split(","):
        spread, _, step_text = part.partition("/")
        step = _number(step_text, name) if step_text else 1
        if spread == "*":
            first, last = low, high
        else:
            start, dash, end = spread.partition("-")
            first = _number(start, name)
            last = _number(end, name) if dash else (high if step_text else first)
        if not low <= first <= last <= high or step < 1:
            msg = f"{name} field {part!r} is outside {low} to {high}"
            raise BadCron(msg)
        values.update(range(first, last + 1, step))
    return values


def _number(text: str, name: str) -> int:
    named = _NAMES.get(name, {}).get(text)
    if named is not None:
        return named
    if not text.isdecimal():
        msg = f"{name} field cannot be read at {text!r}"
        raise BadCron(msg)
    return int(text)


def next_time(cron: Cron, after: datetime, zone: ZoneInfo) -> datetime:
    """Find the first match later than ``after``.

    Args:
        cron: The expression.
        after: Aware time.
        zone: Whose wall clock the expression means.

    Returns:
        Aware UTC, whole minutes.

    Raises:
        BadCron: Nothing matches within five years (30 February).
    """
    local = after.astimezone(zone)
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    for _ in range(_SEARCH_DAYS_MAX):
        if cron.on(day):
            for hour in cron.hours:
                for minute in cron.minutes:
                    wall = day.replace(hour=hour, minute=minute)
                    at = wall.replace(tzinfo=zone).astimezone(UTC)
                    skipped = at.astimezone(zone).replace(tzinfo=None) != wall
                    if at > after and not skipped:
                        return at
        day += timedelta(days=1)
    msg = "the expression names a day that does not come within five years"
    raise BadCron(msg)
