"""The stages of a model version and who may move it between them.

    draft -> submitted -> approved -> archived
                       -> rejected -> archived
    draft, submitted -> archived

Rules:
* A version is submitted by whoever may; from then on its artifacts, metrics and lineage are what is approved.
* Approval is a human act: only principals of type ``user`` count, never the author or a contributor, each once, and
  never later than `ApprovalRule.valid_for_s` before the decision is used. Robots never approve. A single rejection
  rejects.
* Where the rule asks for no human, a version is approved by the rule itself as soon as its evaluation gates passed.
* Gates that neither passed nor failed (``review``) ask for at least one person, whose approval settles them; gates
  that failed, or were never run, cannot be approved away.
* How many people it takes is the larger of what the namespace's policy says and what the model's risk class asks for;
  outside of Development nothing is deployed with fewer whose word is still fresh. Words spoken too long ago are no
  longer evidence: what was not rolled out by then is registered and approved anew.
* Nothing leaves ``archived``; a rejected version is replaced by a new one.

Who may *call* approve is the policy's decision; whether the call *counts* is decided here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from clave_common.errors import FailedPrecondition, InvalidArgument, PermissionDenied


class Stage(StrEnum):
    """Where a version stands."""

    DRAFT = "draft"
    SUBMITTED = "submitted"
    APPROVED = "approved"
    REJECTED = "rejected"
    ARCHIVED = "archived"


class GateResult(StrEnum):
    """What one evaluation gate, or all of them together, found."""

    PASSED = "passed"
    FAILED = "failed"
    REVIEW = "review"
    MISSING = "missing"


_AFTER: dict[Stage, frozenset[Stage]] = {
    Stage.DRAFT: frozenset({Stage.SUBMITTED, Stage.ARCHIVED}),
    Stage.SUBMITTED: frozenset({Stage.APPROVED, Stage.REJECTED, Stage.ARCHIVED}),
    Stage.APPROVED: frozenset({Stage.ARCHIVED}),
    Stage.REJECTED: frozenset({Stage.ARCHIVED}),
    Stage.ARCHIVED: frozenset(),
}


class WrongStage(FailedPrecondition):
    """The version is not in a stage from which it can be moved there."""

    code = "wrong_stage"


class NotIndependent(PermissionDenied):
    """Who wants to approve made, trained or submitted the version, or is no person."""

    code = "separation_of_duties"


class CardIncomplete(FailedPrecondition):
    """A part of the model card that only a person can write is empty."""

    code = "card_incomplete"


class ApprovalsMissing(FailedPrecondition):
    """Too few independent people's approval is fresh enough for the model's risk class."""

    code = "approvals_missing"


class GatesNotPassed(FailedPrecondition):
    """The version's evaluation did not pass."""

    code = "evaluation_gates_not_passed"


def moved(stage: Stage, to: Stage) -> Stage:
    """Return the new stage.

    Raises:
        WrongStage: No such move exists.
    """
    if to not in _AFTER[stage]:
        possible = " or ".join(sorted(after.value for after in _AFTER[stage])) or "nothing else"
        told = f"is {stage} already" if stage is to else f"is {stage} and cannot become {to}"
        raise WrongStage(f"The version {told}; it can become {possible}.", stage=stage, asked=to)
    return to


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """What an approval needs in a namespace.

    Attributes:
        people: Distinct independent persons who must approve, 0 or more.
        valid_for_s: Seconds after which a person's approval no longer counts.
        gates_required: Whether the evaluation gates must have passed.
        card_fields: Parts of the card that a person must have written.
    """

    people: int
    valid_for_s: float = 14 * 86_400.0
    gates_required: bool = True
    card_fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.people < 0 or self.valid_for_s <= 0:
            raise InvalidArgument("An approval rule needs people >= 0 and valid_for_s > 0.", field="people")


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's word on a version.

    Attributes:
        by: Subject id such as ``user:ana``.
        approves: False for a rejection.
        at: When, aware UTC.
    """

    by: str
    approves: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a submitted version is from being approved.

    Attributes:
        counted: Subjects whose approval counts now.
        missing: People still needed.
        obstacles: Everything else that is in the way, in words.
    """

    counted: tuple[str, ...]
    missing: int
    obstacles: tuple[str, ...]

    @property
    def approved(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.missing == 0 and not self.obstacles


UNGOVERNED_NAMESPACE = "Development"
PEOPLE_BY_RISK: Mapping[str, int] = {"minimal": 0, "limited": 1, "high": 2}


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many people a risk class asks for, and for how long their word holds.

    Attributes:
        valid_for_s: Seconds for which an approval counts.
        people: Risk class to independent people; an unknown class asks for as many as the strictest.
    """

    valid_for_s: float = 14 * 86_400.0
    people: Mapping[str, int] = field(default_factory=lambda: dict(PEOPLE_BY_RISK))

    def needed(self, risk_class: str, *, namespace: str) -> int:
        """Tell how many people a release into a namespace takes, whatever policy says beside it."""
        if namespace == UNGOVERNED_NAMESPACE:
            return 0
        return self.people.get(risk_class, max(self.people.values(), default=0))

    def fresh(self, approvals: Sequence[Approval], *, now: datetime) -> tuple[Approval, ...]:
        """Keep the last word of each person, where it was not spoken too long ago."""
        last = {approval.by: approval for approval in sorted(approvals, key=lambda approval: approval.at)}
        oldest = now - timedelta(seconds=self.valid_for_s)
        return tuple(approval for approval in last.values() if approval.at >= oldest)

    def require(
        self,
        risk_class: str,
        *,
        namespace: str,
        approvals: Sequence[Approval],
        contributors: Sequence[str],
        now: datetime,
    ) -> None:
        """Refuse a release with too few fresh approvals.

        Raises:
            ApprovalsMissing: The risk class asks for more.
        """
        needed = self.needed(risk_class, namespace=namespace)
        found = independent(self.fresh(approvals, now=now), contributors=contributors)
        if len(found) < needed:
            raise ApprovalsMissing(
                f"A model of risk class '{risk_class}' takes {needed} fresh approvals of people who did not make it; "
                f"{len(found)} given. Approvals count for {self.valid_for_s / 86_400:g} days.",
                needed=needed,
                counted=list(found),
            )


def independent(approvals: Iterable[Approval], *, contributors: Iterable[str]) -> tuple[str, ...]:
    """Name the people whose approval counts: persons who approve and did not contribute."""
    made = set(contributors)
    return tuple(sorted({a.by for a in approvals if a.approves and a.by.startswith("user:") and a.by not in made}))


def require_independent(subject_id: str, *, contributors: Iterable[str]) -> None:
    """Refuse an approval that would not count.

    Raises:
        NotIndependent: The subject is no person, or contributed to the version.
    """
    if not subject_id.startswith("user:"):
        raise NotIndependent("Approval is a human act; machines and services cannot give it.", subject=subject_id)
    if subject_id in set(contributors):
        raise NotIndependent(
            f"{subject_id} made, trained or submitted this version; somebody else must approve it.",
            subject=subject_id,
        )


def standing(
    rule: ApprovalRule,
    *,
    approvals: Sequence[Approval],
    contributors: Sequence[str],
    gates: GateResult,
    empty_card_fields: Sequence[str],
    now: datetime,
) -> Standing:
    """Judge a submitted version against the rule of its namespace.

    Args:
        rule: What an approval needs.
        approvals: Every word spoken so far; the last one of each person counts.
        contributors: Author, trainers, submitter.
        gates: All evaluation gates together.
        empty_card_fields: Parts of the card that a person must write and has not.
        now: Aware UTC.
    """
    fresh = Quorum(valid_for_s=rule.valid_for_s).fresh(approvals, now=now)
    counted = independent(fresh, contributors=contributors)
    obstacles: list[str] = []
    people = rule.people
    if rule.gates_required and gates is GateResult.REVIEW:
        people = max(people, 1)
    elif rule.gates_required and gates is not GateResult.PASSED:
        obstacles.append(f"evaluation gates: {gates}")
    wanted = [field for field in empty_card_fields if field in rule.card_fields]
    if wanted:
        obstacles.append(f"the card lacks {', '.join(wanted)}")
    return Standing(counted=counted, missing=max(0, people - len(counted)), obstacles=tuple(obstacles))


def gate_result(*, passed: bool | None, verdicts: Iterable[str]) -> GateResult:
    """Sum up an evaluation.

    Args:
        passed: What the evaluation says of itself; None when there is none.
        verdicts: Of its single gates: ``passed``, ``failed``, ``review``, ``not_applicable``.

    Returns:
        ``review`` only where nothing failed but something needs a person.
    """
    if passed is None:
        return GateResult.MISSING
    if passed:
        return GateResult.PASSED
    seen = set(verdicts)
    return GateResult.REVIEW if "review" in seen and "failed" not in seen else GateResult.FAILED
