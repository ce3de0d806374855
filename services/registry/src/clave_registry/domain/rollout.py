"""How a version reaches live traffic: shadow, canary steps, promotion, or the way back.

    pending -> [shadow] -> canary step 0 .. k -> promoted
    any of them          -> rolled_back (the analysis, an operator)
    any of them          -> aborted     (an operator)

Rules:
* `advance` is asked at `wake_at` and decides from the clock and the analysis alone. Nothing sleeps: between two
  looks a rollout is a row.
* A failing analysis rolls back at any look, while paused too: pausing holds the way forward, never the guard. The
  analysis comes from a sequential test that may be looked at as often as one likes (Robbins 1970; Johari, Pekelis and
  Walsh, arXiv 1512.04922), so looking early costs no false rollbacks.
* A canary step is passed after its bake time AND its rows AND a passing verdict. Without them it waits, at most
  `Plan.step_s_max`; then it rolls back. Missing evidence is never read as good evidence.
* The shadow phase serves nobody: it is passed after its bake time unless the analysis fails.
* Without an answer from the analysis nothing moves until the time-out.
* Time spent paused does not bake.
* Before the last step policy is asked again: what it holds against going live now (a freeze, a closed change window,
  an approval that is no longer fresh) keeps the rollout where it is, with its guard on. A closed window is waited for
  as long as it takes; any other objection at most `Plan.step_s_max`, and then the rollout goes back.

What the analysis looks at is monitor's business; which traffic goes where follows from `routes`.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from clave_common.errors import FailedPrecondition, InvalidArgument

STEPS_MAX = 20
BAKE_S_MAX = 30 * 86_400.0
LOOK_INTERVAL_S_MIN = 0.2
PATIENT_OBJECTIONS = frozenset({"outside_change_window", "policy_unavailable"})


class Phase(StrEnum):
    """Where a rollout stands."""

    PENDING = "pending"
    SHADOW = "shadow"
    CANARY = "canary"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self in {Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ABORTED}


class Verdict(StrEnum):
    """What an analysis says about the challenger."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class RolloutEnded(FailedPrecondition):
    """The rollout is over; nothing can be done to it."""

    code = "rollout_ended"


class RolloutNotPaused(FailedPrecondition):
    """Only a paused rollout can be resumed."""

    code = "rollout_not_paused"


class InvalidPlan(InvalidArgument):
    """A rollout plan whose steps make no sense."""

    code = "invalid_plan"


@dataclass(frozen=True, slots=True)
class Step:
    """One canary step.

    Attributes:
        weight: Share of the endpoint's traffic for the challenger, above 0 and at most 1.
        bake_s: Seconds the step lasts at least.
        rows_min: Predictions that the challenger must have answered in the step.
    """

    weight: float
    bake_s: float
    rows_min: int

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise InvalidPlan("A step's weight is a share of the traffic above 0 and at most 1.", field="weight")
        if not 0 <= self.bake_s <= BAKE_S_MAX:
            raise InvalidPlan(f"A step bakes 0 to {BAKE_S_MAX:g} seconds.", field="bake_s", limit=BAKE_S_MAX)
        if self.rows_min < 0:
            raise InvalidPlan("A step's rows_min is at least 0.", field="rows_min")


@dataclass(frozen=True, slots=True)
class Plan:
    """How far, how fast, and on what evidence.

    Attributes:
        steps: 1 to 20 canary steps with rising weights.
        shadow_s: Seconds in which requests are copied to the challenger before the first step; 0 for none.
        step_s_max: Seconds after which a phase that cannot be judged rolls back; at least its bake time.
        look_interval_s: Seconds between two looks at the analysis.
    """

    steps: tuple[Step, ...]
    shadow_s: float = 0.0
    step_s_max: float = 3600.0
    look_interval_s: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= STEPS_MAX:
            raise InvalidPlan(f"A plan has 1 to {STEPS_MAX} steps.", field="steps", limit=STEPS_MAX)
        weights = [step.weight for step in self.steps]
        if weights != sorted(set(weights)):
            raise InvalidPlan("The weights of a plan's steps must rise from step to step.", field="steps")
        if not 0 <= self.shadow_s <= BAKE_S_MAX or self.step_s_max <= 0:
            raise InvalidPlan(
                f"shadow_s is 0 to {BAKE_S_MAX:g}; step_s_max is above 0.", field="shadow_s", limit=BAKE_S_MAX
            )
        if self.look_interval_s < LOOK_INTERVAL_S_MIN:
            raise InvalidPlan(f"look_interval_s is at least {LOOK_INTERVAL_S_MIN:g}.", field="look_interval_s")

    @property
    def shadow(self) -> Step | None:
        """The shadow phase as a step: every request copied, no rows demanded."""
        return Step(1.0, self.shadow_s, 0) if self.shadow_s > 0 else None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What monitor says about the challenger since the phase began.

    Attributes:
        verdict: Its judgement over all guardrails.
        rows: Predictions that the challenger answered in this phase.
        reasons: In words, for the record.
    """

    verdict: Verdict
    rows: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state of a rollout; a row, never a process.

    Attributes:
        phase: Where it stands.
        step: Index of the canary step; 0 outside of the canary phase.
        since: When the phase or step began; moved on by the time spent paused. Aware UTC.
        wake_at: When to look again; None once it has ended.
        paused_at: When it was paused; None while it runs.
        reason: Why it stands where it stands, in words.
    """

    phase: Phase
    step: int
    since: datetime
    wake_at: datetime | None
    paused_at: datetime | None = None
    reason: str = ""


def begin(now: datetime) -> Rollout:
    """Create a rollout that is to start at once."""
    return Rollout(Phase.PENDING, step=0, since=now, wake_at=now, reason="created")


def advance(
    rollout: Rollout, plan: Plan, *, now: datetime, analysis: Analysis | None, objections: tuple[str, ...] = ()
) -> Rollout:
    """Decide the next state.

    Args:
        rollout: The state as it is.
        plan: What was agreed when it was created.
        now: Aware UTC.
        analysis: Monitor's answer for the current phase; None when there is none (pending, or monitor is away).
        objections: Why policy would not let the challenger go live now; none = nothing speaks against it.

    Returns:
        The next state; its `wake_at` says when to ask again. Equal phase and step mean: still waiting.
    """
    if rollout.phase.ended:
        return rollout
    if analysis is not None and analysis.verdict is Verdict.FAIL and rollout.phase is not Phase.PENDING:
        return _ended(rollout, Phase.ROLLED_BACK, now, "; ".join(analysis.reasons) or "the analysis failed")
    if rollout.paused_at is not None:
        return replace(rollout, wake_at=_next_look(plan, now))
    match rollout.phase:
        case Phase.PENDING:
            return _entered(rollout, Phase.SHADOW if plan.shadow else Phase.CANARY, 0, plan, now)
        case Phase.SHADOW | Phase.CANARY:
            return _look(rollout, plan, now=now, analysis=analysis, objections=objections)
        case Phase.PROMOTED | Phase.ROLLED_BACK | Phase.ABORTED:
            return rollout
        case _:
            assert_never(rollout.phase)


def current_step(rollout: Rollout, plan: Plan) -> Step | None:
    """Name the step that a running rollout is in; None before the first and after the last."""
    if rollout.phase is Phase.SHADOW:
        return plan.shadow
    return plan.steps[rollout.step] if rollout.phase is Phase.CANARY else None


def pause(rollout: Rollout, *, now: datetime, reason: str) -> Rollout:
    """Hold the rollout where it is; the traffic stays as it is, the guard stays on.

    Raises:
        RolloutEnded: There is nothing to hold.
    """
    _require_running(rollout)
    return rollout if rollout.paused_at else replace(rollout, paused_at=now, reason=reason)


def resume(rollout: Rollout, *, now: datetime) -> Rollout:
    """Go on; the time spent paused does not count as baked.

    Raises:
        RolloutEnded: It is over.
        RolloutNotPaused: It is not paused.
    """
    _require_running(rollout)
    if rollout.paused_at is None:
        raise RolloutNotPaused("The rollout is not paused.", phase=rollout.phase)
    since = rollout.since + (now - rollout.paused_at)
    return replace(rollout, since=since, paused_at=None, wake_at=now, reason="resumed")


def abort(rollout: Rollout, *, now: datetime, reason: str) -> Rollout:
    """End the rollout and give all traffic back to the champion.

    Raises:
        RolloutEnded: It is over.
    """
    _require_running(rollout)
    return _ended(rollout, Phase.ABORTED, now, reason)


def roll_back(rollout: Rollout, *, now: datetime, reason: str) -> Rollout:
    """End the rollout as `abort` does, on the record as a rollback.

    Raises:
        RolloutEnded: It is over.
    """
    _require_running(rollout)
    return _ended(rollout, Phase.ROLLED_BACK, now, reason)


def _require_running(rollout: Rollout) -> None:
    if rollout.phase.ended:
        raise RolloutEnded(f"The rollout is {rollout.phase}; start a new one.", phase=rollout.phase)


def _look(
    rollout: Rollout, plan: Plan, *, now: datetime, analysis: Analysis | None, objections: tuple[str, ...]
) -> Rollout:
    step = current_step(rollout, plan)
    if step is None:  # a plan without shadow whose rollout is in shadow: the plan is immutable, so never
        return _entered(rollout, Phase.CANARY, 0, plan, now)
    baked_s = (now - rollout.since).total_seconds()
    passed = baked_s >= step.bake_s and _enough(rollout.phase, step, analysis)
    if passed:
        following = _passed(rollout, plan, now)
        if following.phase is not Phase.PROMOTED or not objections:
            return following
        if PATIENT_OBJECTIONS.issuperset(objections):
            return replace(rollout, wake_at=_next_look(plan, now), reason=_held(objections))
    if baked_s >= max(plan.step_s_max, step.bake_s):
        why = _held(objections) if passed else _waiting_for(step, baked_s, analysis)
        return _ended(rollout, Phase.ROLLED_BACK, now, f"no sufficient evidence within {plan.step_s_max:g} s; {why}")
    reason = _held(objections) if passed else _waiting_for(step, baked_s, analysis)
    return replace(rollout, wake_at=_next_wake(rollout, step, plan, now), reason=reason)


def _held(objections: tuple[str, ...]) -> str:
    return f"waiting: every step passed; policy holds the promotion ({', '.join(objections)})"


def _enough(phase: Phase, step: Step, analysis: Analysis | None) -> bool:
    if analysis is None:
        return False
    return phase is Phase.SHADOW or (analysis.verdict is Verdict.PASS and analysis.rows >= step.rows_min)


def _waiting_for(step: Step, baked_s: float, analysis: Analysis | None) -> str:
    if analysis is None:
        return "waiting: monitor gives no analysis"
    waits: list[str] = []
    if baked_s < step.bake_s:
        waits.append(f"baking {step.bake_s:g} s")
    if analysis.rows < step.rows_min:
        waits.append(f"{analysis.rows} of {step.rows_min} rows")
    if analysis.verdict is not Verdict.PASS:
        waits.append(f"verdict {analysis.verdict}")
    return "waiting: " + ", ".join(waits)


def _passed(rollout: Rollout, plan: Plan, now: datetime) -> Rollout:
    following = 0 if rollout.phase is Phase.SHADOW else rollout.step + 1
    if following < len(plan.steps):
        return _entered(rollout, Phase.CANARY, following, plan, now)
    return _ended(rollout, Phase.PROMOTED, now, "every step passed")


def _entered(rollout: Rollout, phase: Phase, step: int, plan: Plan, now: datetime) -> Rollout:
    entered = replace(rollout, phase=phase, step=step, since=now, reason=f"entered {phase}")
    here = current_step(entered, plan)
    return replace(entered, wake_at=now if here is None else _next_wake(entered, here, plan, now))


def _next_wake(rollout: Rollout, step: Step, plan: Plan, now: datetime) -> datetime:
    baked_at = rollout.since + timedelta(seconds=step.bake_s)
    look = _next_look(plan, now)
    return min(look, baked_at) if baked_at > now else look


def _next_look(plan: Plan, now: datetime) -> datetime:
    return now + timedelta(seconds=plan.look_interval_s)


def _ended(rollout: Rollout, phase: Phase, now: datetime, reason: str) -> Rollout:
    return replace(rollout, phase=phase, since=now, wake_at=None, paused_at=None, reason=reason)
