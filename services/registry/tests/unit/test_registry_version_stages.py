"""Stages move forward only, and only independent people approve."""

from datetime import UTC, datetime, timedelta

import pytest
from clave_registry.domain.version import (
    Approval,
    ApprovalRule,
    GateResult,
    NotIndependent,
    Stage,
    WrongStage,
    gate_result,
    moved,
    require_independent,
    standing,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)
ALLOWED = {
    (Stage.DRAFT, Stage.SUBMITTED),
    (Stage.DRAFT, Stage.ARCHIVED),
    (Stage.SUBMITTED, Stage.APPROVED),
    (Stage.SUBMITTED, Stage.REJECTED),
    (Stage.SUBMITTED, Stage.ARCHIVED),
    (Stage.APPROVED, Stage.ARCHIVED),
    (Stage.REJECTED, Stage.ARCHIVED),
}


@pytest.mark.parametrize("start", list(Stage))
@pytest.mark.parametrize("end", list(Stage))
def test_every_pair_of_stages_is_either_allowed_or_refused(start: Stage, end: Stage) -> None:
    if (start, end) in ALLOWED:
        assert moved(start, end) is end
    else:
        with pytest.raises(WrongStage):
            moved(start, end)


def judged(people: int, *voices: Approval, gates: GateResult = GateResult.PASSED, empty: tuple[str, ...] = ()) -> bool:
    rule = ApprovalRule(people, valid_for_s=3600, card_fields=("intended_use",))
    found = standing(rule, approvals=voices, contributors=("user:ana",), gates=gates, empty_card_fields=empty, now=NOW)
    return found.approved


def voice(by: str, *, approves: bool = True, age_s: float = 0) -> Approval:
    return Approval(by, approves, NOW - timedelta(seconds=age_s))


def test_without_people_the_gates_decide() -> None:
    assert judged(0)
    assert not judged(0, gates=GateResult.FAILED)
    assert not judged(0, gates=GateResult.MISSING)


def test_gates_in_review_need_one_person() -> None:
    assert not judged(0, gates=GateResult.REVIEW)
    assert judged(0, voice("user:bob"), gates=GateResult.REVIEW)


def test_failed_gates_cannot_be_approved_away() -> None:
    assert not judged(1, voice("user:bob"), gates=GateResult.FAILED)


def test_only_distinct_independent_fresh_people_count() -> None:
    assert judged(2, voice("user:bob"), voice("user:cat"))
    assert not judged(2, voice("user:bob"), voice("user:bob"))
    assert not judged(1, voice("user:ana"))
    assert not judged(1, voice("service:trainer"))
    assert not judged(1, voice("user:bob", age_s=3601))
    assert not judged(1, voice("user:bob", age_s=10), voice("user:bob", approves=False))


def test_a_required_empty_card_field_holds_approval_up() -> None:
    assert not judged(0, empty=("intended_use",))
    assert judged(0, empty=("ethical_considerations",))


@pytest.mark.parametrize("subject", ["user:ana", "service:registry", "app:scorer", "service_account:ci"])
def test_contributors_and_machines_may_not_approve(subject: str) -> None:
    with pytest.raises(NotIndependent):
        require_independent(subject, contributors=("user:ana",))


@pytest.mark.parametrize(
    ("passed", "verdicts", "expected"),
    [
        (None, [], GateResult.MISSING),
        (True, ["passed", "not_applicable"], GateResult.PASSED),
        (False, ["review", "passed"], GateResult.REVIEW),
        (False, ["review", "failed"], GateResult.FAILED),
        (False, [], GateResult.FAILED),
    ],
)
def test_gates_sum_up(passed: bool | None, verdicts: list[str], expected: GateResult) -> None:
    assert gate_result(passed=passed, verdicts=verdicts) is expected
