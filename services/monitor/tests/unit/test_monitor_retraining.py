from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from clave_monitor.domain.retraining import (
    BusinessHours,
    Outcome,
    Reason,
    RetrainingPolicy,
    Situation,
    decide,
)

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
QUIET = Situation(
    now=NOW,
    harm_proven=False,
    estimate_dropped=False,
    drift_gated=False,
    quality_broken=False,
    in_flight=False,
    last_ended_at=None,
    recent_requests=0,
    fresh_labels=1000,
)
HARM = replace(QUIET, harm_proven=True)
POLICY = RetrainingPolicy(pipeline="churn")


def reason(situation, policy=POLICY):
    decision = decide(situation, policy)
    return decision.outcome, decision.reason


def test_nothing_found_is_nothing_to_do():
    assert reason(QUIET) == (Outcome.WAIT, Reason.NO_CAUSE)


def test_drift_alone_never_retrains():
    assert reason(replace(QUIET, drift_gated=True)) == (Outcome.WAIT, Reason.DRIFT_WITHOUT_HARM)


def test_an_estimate_alone_never_retrains():
    assert reason(replace(QUIET, estimate_dropped=True)) == (Outcome.WAIT, Reason.NO_CAUSE)


def test_realised_harm_retrains():
    assert reason(HARM) == (Outcome.RETRAIN, Reason.REALISED_HARM)


def test_an_estimated_drop_with_drift_retrains_unless_quality_is_broken():
    both = replace(QUIET, estimate_dropped=True, drift_gated=True)
    assert reason(both) == (Outcome.RETRAIN, Reason.ESTIMATED_DROP_WITH_DRIFT)
    assert reason(replace(both, quality_broken=True)) == (Outcome.REFUSE, Reason.DATA_QUALITY_BROKEN)


@pytest.mark.parametrize(
    ("situation", "policy", "expected"),
    [
        ({"in_flight": True}, {}, Reason.IN_FLIGHT),
        ({"quality_broken": True}, {}, Reason.DATA_QUALITY_BROKEN),
        ({"last_ended_at": NOW - timedelta(minutes=59)}, {}, Reason.COOL_DOWN),
        ({"fresh_labels": 199}, {}, Reason.TOO_FEW_LABELS),
        ({"recent_requests": 4}, {}, Reason.BUDGET_SPENT),
        ({"now": NOW.replace(hour=19)}, {"business_hours": BusinessHours()}, Reason.OUTSIDE_BUSINESS_HOURS),
        ({}, {"approval_required": True}, Reason.APPROVAL_NEEDED),
    ],
)
def test_proven_harm_waits_for_what_stands_in_its_way(situation, policy, expected):
    decision = decide(replace(HARM, **situation), replace(POLICY, **policy))
    assert (decision.outcome, decision.reason, decision.cause) == (Outcome.WAIT, expected, Reason.REALISED_HARM)


def test_a_person_decides_where_the_policy_wants_one():
    policy = replace(POLICY, approval_required=True)
    assert reason(replace(HARM, approved=True), policy) == (Outcome.RETRAIN, Reason.REALISED_HARM)
    assert reason(replace(HARM, approved=False), policy) == (Outcome.REFUSE, Reason.APPROVAL_DENIED)


def test_a_switched_off_endpoint_refuses():
    assert reason(HARM, replace(POLICY, enabled=False)) == (Outcome.REFUSE, Reason.DISABLED)


def test_the_cool_down_ends():
    assert reason(replace(HARM, last_ended_at=NOW - timedelta(hours=1)))[0] is Outcome.RETRAIN


def test_business_hours_follow_their_zone_and_may_cross_midnight():
    night = BusinessHours(zone="Europe/Zurich", days=(0,), start=time(22), end=time(4))
    assert night.contains(datetime(2026, 3, 2, 21, 30, tzinfo=UTC))  # 22:30 on Monday
    assert night.contains(datetime(2026, 3, 3, 2, 0, tzinfo=UTC))  # 03:00 on Tuesday, begun on Monday
    assert not night.contains(datetime(2026, 3, 3, 21, 30, tzinfo=UTC))
    assert not night.contains(datetime(2026, 3, 2, 12, 0, tzinfo=UTC))
