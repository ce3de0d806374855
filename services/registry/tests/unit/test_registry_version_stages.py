"""Stages move forward only, and only independent people approve."""

from datetime import UTC, datetime, timedelta

import pytest
from clave_registry.domain.version import (
    PEOPLE_BY_RISK,
    Approval,
    ApprovalRule,
    ApprovalsMissing,
    GateResult,
    NotIndependent,
    Quorum,
    Stage,
    WrongStage,
    gate_result,
    moved,
    require_independent,
    standing,
)
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_refused_move_says_where_the_version_is_and_where_it_can_go() -> None:
    with pytest.raises(WrongStage) as refused:
        moved(Stage.SUBMITTED, Stage.SUBMITTED)
    assert refused.value.detail == "The version is submitted already; it can become approved or archived or rejected."
    with pytest.raises(WrongStage) as refused:
        moved(Stage.DRAFT, Stage.APPROVED)
    assert (
        refused.value.detail == "The version is draft and cannot become approved; it can become archived or submitted."
    )
    with pytest.raises(WrongStage, match="it can become nothing else"):
        moved(Stage.ARCHIVED, Stage.APPROVED)


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


PEOPLE = st.sampled_from(["user:ana", "user:bob", "user:cat", "user:dan", "service:trainer", "service_account:ci"])
WORDS = st.lists(
    st.builds(
        Approval,
        by=PEOPLE,
        approves=st.booleans(),
        at=st.integers(0, 40 * 86_400).map(lambda seconds: NOW - timedelta(seconds=seconds)),
    ),
    max_size=12,
)


@given(words=WORDS, made=st.lists(PEOPLE, max_size=3), people=st.integers(0, 3))
def test_no_set_of_words_approves_without_enough_fresh_independent_people(
    words: list[Approval], made: list[str], people: int
) -> None:
    rule = ApprovalRule(people=people)
    found = standing(rule, approvals=words, contributors=made, gates=GateResult.PASSED, empty_card_fields=(), now=NOW)
    for person in found.counted:
        mine = sorted((word for word in words if word.by == person), key=lambda word: word.at)
        assert person.startswith("user:")
        assert person not in made
        assert mine[-1].approves
        assert (NOW - mine[-1].at).total_seconds() <= rule.valid_for_s
    assert found.approved == (len(found.counted) >= people)


@given(words=WORDS, made=st.lists(PEOPLE, max_size=3))
def test_one_more_robot_or_contributor_never_changes_a_standing(words: list[Approval], made: list[str]) -> None:
    rule = ApprovalRule(people=2)
    voices = [Approval("service:trainer", approves=True, at=NOW)]
    voices += [Approval(person, approves=True, at=NOW) for person in made]

    def judged(approvals: list[Approval]) -> int:
        found = standing(
            rule, approvals=approvals, contributors=made, gates=GateResult.PASSED, empty_card_fields=(), now=NOW
        )
        return len(found.counted)

    assert judged(words + voices) == judged(words)


@given(moves=st.lists(st.sampled_from(list(Stage)), max_size=8))
def test_no_walk_through_the_stages_leaves_archived_or_returns_to_draft(moves: list[Stage]) -> None:
    stage, seen = Stage.DRAFT, [Stage.DRAFT]
    for to in moves:
        try:
            stage = moved(stage, to)
        except WrongStage:
            continue
        seen.append(stage)
    assert len(set(seen)) == len(seen)
    assert Stage.ARCHIVED not in seen[:-1]
    if Stage.APPROVED in seen:
        assert Stage.SUBMITTED in seen


@pytest.mark.parametrize("risk", ["minimal", "limited", "high", "unheard of"])
def test_each_risk_class_takes_its_people_outside_of_development(risk: str) -> None:
    quorum = Quorum()
    needed = PEOPLE_BY_RISK.get(risk, 2)
    assert quorum.needed(risk, namespace="Production") == quorum.needed(risk, namespace="Staging") == needed
    assert quorum.needed(risk, namespace="Development") == 0


def test_a_quorum_counts_fresh_words_of_independent_people_only() -> None:
    quorum = Quorum(valid_for_s=3600)
    fresh, stale = NOW - timedelta(minutes=5), NOW - timedelta(hours=2)
    words = [
        Approval("user:bob", approves=True, at=fresh),
        Approval("user:cat", approves=True, at=stale),
        Approval("user:ana", approves=True, at=fresh),
    ]
    facts = {"namespace": "Production", "contributors": ["user:ana"], "now": NOW}
    quorum.require("limited", approvals=words, **facts)  # type: ignore[arg-type]  # facts of several types
    with pytest.raises(ApprovalsMissing) as refusal:
        quorum.require("high", approvals=words, **facts)  # type: ignore[arg-type]  # facts of several types
    assert refusal.value.facts == {"needed": 2, "counted": ["user:bob"]}
