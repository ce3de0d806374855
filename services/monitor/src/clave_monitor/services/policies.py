"""An endpoint's policy: what the API stores, and what the domain's rules take from it."""

from datetime import time
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from clave_common.errors import InvalidArgument
from clave_contracts.monitor import RetrainingPolicy as PolicyBody

from clave_monitor.domain.drift import DriftPolicy
from clave_monitor.domain.performance import PerformancePolicy
from clave_monitor.domain.quality import QualityPolicy
from clave_monitor.domain.retraining import BusinessHours, RetrainingPolicy

_WEEKDAYS = range(7)


def policy_of(stored: dict[str, Any]) -> PolicyBody:
    """Complete a stored policy with the defaults."""
    return PolicyBody.model_validate(stored)


def drift_policy(body: PolicyBody) -> DriftPolicy:
    """Take what drift needs."""
    return DriftPolicy(run_length_windows=body.false_alarm_windows, effect_relevant=body.effect_min)


def quality_policy(body: PolicyBody) -> QualityPolicy:
    """Take what data quality needs."""
    return QualityPolicy(run_length_windows=body.false_alarm_windows)


def performance_policy(body: PolicyBody) -> PerformancePolicy:
    """Take what performance needs."""
    return PerformancePolicy(
        loss_tolerance=body.loss_tolerance,
        run_length_labels=body.harm_false_alarm_labels,
        estimated_drop_max=body.estimated_drop_max,
    )


def retraining_policy(body: PolicyBody) -> RetrainingPolicy:
    """Take what the decision needs.

    Raises:
        InvalidArgument: The business hours are none.
    """
    return RetrainingPolicy(
        pipeline=body.pipeline,
        enabled=body.enabled,
        cool_down_s=body.cool_down_s,
        fresh_labels_min=body.labels_min,
        runs_per_day_max=body.runs_per_day_max,
        business_hours=_business_hours(body.business_hours),
        approval_required=body.approval == "human",
    )


def _business_hours(body: dict[str, Any] | None) -> BusinessHours | None:
    if body is None:
        return None
    unknown = set(body) - {"days", "from", "to", "zone"}
    if unknown:
        raise _bad_hours(f"'{min(unknown)}' is not part of business_hours")
    days = body.get("days", [0, 1, 2, 3, 4])
    if not isinstance(days, list) or not days or any(day not in _WEEKDAYS for day in days):
        raise _bad_hours("'days' is a list of 0 (Monday) to 6")
    zone = str(body.get("zone", "UTC"))
    try:
        ZoneInfo(zone)
        start = time.fromisoformat(str(body.get("from", "08:00")))
        end = time.fromisoformat(str(body.get("to", "18:00")))
    except (ValueError, ZoneInfoNotFoundError) as error:
        raise _bad_hours("'from' and 'to' read HH:MM, 'zone' is an IANA time zone") from error
    return BusinessHours(zone=zone, days=tuple(days), start=start, end=end)


def _bad_hours(why: str) -> InvalidArgument:
    return InvalidArgument(
        f'{why}, for example {{"days": [0, 1, 2, 3, 4], "from": "08:00", "to": "18:00", "zone": "UTC"}}.',
        field="business_hours",
    )
