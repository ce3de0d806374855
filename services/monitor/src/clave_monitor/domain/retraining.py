"""The decision to retrain, from evidence to retrain, wait or refuse.

Rules, in this order:
1. No cause, no retraining. A cause is realised harm; or an estimated drop together with gated drift
   while data quality holds. Drift alone never retrains: it is no harm.
2. Broken data quality refuses a cause that rests on estimates: mend the data first. Realised harm stands,
   because labels do not lie about the outcome, yet it waits while quality is broken: a model trained on broken
   data is no remedy.
3. One retraining at a time; then the cool-down since the last one; then enough fresh labels to
   learn from; then the budget of the last 24 hours; then business hours.
4. Where a person must approve, the decision waits for the approval and keeps the evidence.

A wait says what it waits for and is looked at again; a refusal says why more time will not change it.
"""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo


class Outcome(StrEnum):
    """What was decided."""

    RETRAIN = "retrain"
    WAIT = "wait"
    REFUSE = "refuse"


class Reason(StrEnum):
    """Why; stable words that callers and metrics may rely on."""

    REALISED_HARM = "realised_harm"
    ESTIMATED_DROP_WITH_DRIFT = "estimated_drop_with_drift"
    NO_CAUSE = "no_cause"
    DRIFT_WITHOUT_HARM = "drift_without_harm"
    DATA_QUALITY_BROKEN = "data_quality_broken"
    DISABLED = "disabled"
    IN_FLIGHT = "in_flight"
    COOL_DOWN = "cool_down"
    TOO_FEW_LABELS = "too_few_labels"
    BUDGET_SPENT = "budget_spent"
    OUTSIDE_BUSINESS_HOURS = "outside_business_hours"
    APPROVAL_NEEDED = "approval_needed"
    APPROVAL_DENIED = "approval_denied"


@dataclass(frozen=True)
class BusinessHours:
    """When retraining may start.

    Attributes:
        zone: IANA name of the time zone.
        days: 0 is Monday.
        start: First minute within.
        end: First minute after; at or before `start` it is on the next day.
    """

    zone: str = "UTC"
    days: tuple[int, ...] = (0, 1, 2, 3, 4)
    start: time = time(8)
    end: time = time(18)

    def contains(self, at: datetime) -> bool:
        """Say whether a moment lies within the hours."""
        local = at.astimezone(ZoneInfo(self.zone))
        clock = local.time().replace(tzinfo=None)
        if self.start < self.end:
            return local.weekday() in self.days and self.start <= clock < self.end
        begun_yesterday = clock < self.end
        day = (local - timedelta(days=1)).weekday() if begun_yesterday else local.weekday()
        return day in self.days and (begun_yesterday or clock >= self.start)


@dataclass(frozen=True)
class RetrainingPolicy:
    """How an endpoint is retrained.

    Attributes:
        pipeline: Pipeline to run; the endpoint's name where None.
        enabled: False refuses every retraining.
        cool_down_s: Seconds between the end of one retraining and the next.
        fresh_labels_min: Labels since the live version's first prediction that a retraining needs.
        runs_per_day_max: Budget of any 24 hours.
        business_hours: When it may start; None is always.
        approval_required: A person has to approve each.
    """

    pipeline: str | None = None
    enabled: bool = True
    cool_down_s: float = 3600.0
    fresh_labels_min: int = 200
    runs_per_day_max: int = 4
    business_hours: BusinessHours | None = None
    approval_required: bool = False


@dataclass(frozen=True)
class Situation:
    """What is known when the decision is taken.

    Attributes:
        now: Aware UTC.
        harm_proven: The realised loss exceeds the accepted one.
        estimate_dropped: The estimated loss exceeds the accepted one beyond its band.
        drift_gated: Input or prediction drift has evidence and effect.
        quality_broken: The latest window violates data quality.
        in_flight: A retraining that was asked for has not ended.
        last_ended_at: When the last one ended.
        recent_requests: Retrainings asked for within 24 hours.
        fresh_labels: Labelled predictions of the live version.
        approved: A person's answer, None while there is none.
    """

    now: datetime
    harm_proven: bool
    estimate_dropped: bool
    drift_gated: bool
    quality_broken: bool
    in_flight: bool
    last_ended_at: datetime | None
    recent_requests: int
    fresh_labels: int
    approved: bool | None = None


@dataclass(frozen=True)
class Decision:
    """What was decided, why, and in one sentence for people."""

    outcome: Outcome
    reason: Reason
    sentence: str
    cause: Reason | None = None


def decide(situation: Situation, policy: RetrainingPolicy) -> Decision:
    """Decide whether to retrain now.

    Args:
        situation: What is known.
        policy: The endpoint's policy.
    """
    cause = _cause(situation)
    if cause in (Reason.NO_CAUSE, Reason.DRIFT_WITHOUT_HARM, Reason.DATA_QUALITY_BROKEN):
        return _without_cause(cause)
    if not policy.enabled:
        return Decision(Outcome.REFUSE, Reason.DISABLED, "Retraining is switched off for this endpoint.", cause)
    hindrance = _hindrance(situation, policy)
    if hindrance is not None:
        outcome = Outcome.REFUSE if hindrance[0] is Reason.APPROVAL_DENIED else Outcome.WAIT
        return Decision(outcome, hindrance[0], hindrance[1], cause)
    sentence = {
        Reason.REALISED_HARM: "Outcomes prove that the model's loss exceeds what is accepted.",
        Reason.ESTIMATED_DROP_WITH_DRIFT: "The estimated loss exceeds what is accepted, and the data drifted.",
    }[cause]
    return Decision(Outcome.RETRAIN, cause, sentence, cause)


def _cause(situation: Situation) -> Reason:
    if situation.harm_proven:
        return Reason.REALISED_HARM
    suspected = situation.estimate_dropped and situation.drift_gated
    if suspected and situation.quality_broken:
        return Reason.DATA_QUALITY_BROKEN
    if suspected:
        return Reason.ESTIMATED_DROP_WITH_DRIFT
    return Reason.DRIFT_WITHOUT_HARM if situation.drift_gated else Reason.NO_CAUSE


def _without_cause(cause: Reason) -> Decision:
    if cause is Reason.DATA_QUALITY_BROKEN:
        return Decision(Outcome.REFUSE, cause, "Data quality is broken; mend the data before the model.")
    if cause is Reason.DRIFT_WITHOUT_HARM:
        return Decision(Outcome.WAIT, cause, "The data drifted, yet neither outcomes nor estimates show harm.")
    return Decision(Outcome.WAIT, cause, "Nothing speaks for a retraining.")


def _hindrance(situation: Situation, policy: RetrainingPolicy) -> tuple[Reason, str] | None:
    """Return the first thing that stands in the way, in the order of the rules."""
    spent = situation.recent_requests >= policy.runs_per_day_max
    closed = policy.business_hours is not None and not policy.business_hours.contains(situation.now)
    missing = policy.fresh_labels_min - situation.fresh_labels
    left_s = _cool_down_left_s(situation, policy)
    unanswered = policy.approval_required and situation.approved is None
    denied = policy.approval_required and situation.approved is False
    hindrances = (
        (situation.in_flight, Reason.IN_FLIGHT, "A retraining is under way."),
        (situation.quality_broken, Reason.DATA_QUALITY_BROKEN, "Data quality is broken; mend the data first."),
        (left_s > 0, Reason.COOL_DOWN, f"The cool-down lasts another {left_s:.0f} s."),
        (missing > 0, Reason.TOO_FEW_LABELS, f"{missing} more labels are needed to learn from."),
        (spent, Reason.BUDGET_SPENT, f"{situation.recent_requests} retrainings within a day spend the budget."),
        (closed, Reason.OUTSIDE_BUSINESS_HOURS, "Retraining starts within business hours only."),
        (unanswered, Reason.APPROVAL_NEEDED, "A person has to approve this retraining."),
        (denied, Reason.APPROVAL_DENIED, "A person denied this retraining."),
    )
    return next(((reason, sentence) for stands, reason, sentence in hindrances if stands), None)


def _cool_down_left_s(situation: Situation, policy: RetrainingPolicy) -> float:
    if situation.last_ended_at is None:
        return 0.0
    over_at = situation.last_ended_at + timedelta(seconds=policy.cool_down_s)
    return (over_at - situation.now).total_seconds()
