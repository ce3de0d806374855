"""Rollouts move by the clock and the analysis alone, and the way back is always open."""

from datetime import UTC, datetime, timedelta

import pytest
from clave_registry.domain.rollout import (
    Analysis,
    InvalidPlan,
    Phase,
    Plan,
    Rollout,
    RolloutEnded,
    RolloutNotPaused,
    Step,
    Verdict,
    abort,
    advance,
    begin,
    pause,
    resume,
)
from clave_registry.domain.thresholds import Thresholds, judged
from clave_registry.domain.traffic import Arm, routes
from hypothesis import given
from hypothesis import strategies as st

T0 = datetime(2026, 11, 22, tzinfo=UTC)
PLAN = Plan(steps=(Step(0.1, 60, 100), Step(0.5, 60, 100)), shadow_s=30, step_s_max=600, look_interval_s=5)
GOOD = Analysis(Verdict.PASS, 500)
BAD = Analysis(Verdict.FAIL, 500, ("errors rose", "slower"))
UNSURE = Analysis(Verdict.INCONCLUSIVE, 20)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def canary(step: int = 0, since: float = 0) -> Rollout:
    return Rollout(Phase.CANARY, step=step, since=at(since), wake_at=at(since))


def test_a_rollout_goes_through_shadow_and_every_step_to_promotion() -> None:
    state = begin(T0)
    places = []
    for second in range(0, 300, 5):
        state = advance(state, PLAN, now=at(second), analysis=GOOD)
        if (state.phase, state.step) not in places:
            places.append((state.phase, state.step))
    assert places == [(Phase.SHADOW, 0), (Phase.CANARY, 0), (Phase.CANARY, 1), (Phase.PROMOTED, 1)]
    assert state.wake_at is None


def test_without_a_shadow_phase_the_first_step_begins_at_once() -> None:
    plan = Plan(steps=PLAN.steps)
    assert advance(begin(T0), plan, now=T0, analysis=None).phase is Phase.CANARY


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY])
def test_a_failing_analysis_rolls_back_at_any_look(phase: Phase) -> None:
    state = advance(Rollout(phase, 0, T0, T0), PLAN, now=at(1), analysis=BAD)
    assert (state.phase, state.reason, state.wake_at) == (Phase.ROLLED_BACK, "errors rose; slower", None)


def test_a_paused_rollout_stays_but_its_guard_stays_on() -> None:
    held = pause(canary(), now=at(10), reason="lunch")
    assert advance(held, PLAN, now=at(500), analysis=GOOD).phase is Phase.CANARY
    assert advance(held, PLAN, now=at(20), analysis=BAD).phase is Phase.ROLLED_BACK


def test_time_spent_paused_does_not_bake() -> None:
    state = resume(pause(canary(), now=at(50), reason="lunch"), now=at(1050))
    assert advance(state, PLAN, now=at(1055), analysis=GOOD).step == 0
    assert advance(state, PLAN, now=at(1061), analysis=GOOD).step == 1


def test_missing_evidence_is_not_good_evidence() -> None:
    for analysis in (None, UNSURE, Analysis(Verdict.PASS, 99)):
        waiting = advance(canary(), PLAN, now=at(120), analysis=analysis)
        assert (waiting.phase, waiting.step) == (Phase.CANARY, 0)
        assert waiting.wake_at == at(125)
        ended = advance(canary(), PLAN, now=at(600), analysis=analysis)
        assert ended.phase is Phase.ROLLED_BACK
        assert "no sufficient evidence" in ended.reason


def test_a_shadow_phase_needs_no_rows_but_an_answer() -> None:
    shadow = Rollout(Phase.SHADOW, 0, T0, T0)
    assert advance(shadow, PLAN, now=at(31), analysis=None).phase is Phase.SHADOW
    assert advance(shadow, PLAN, now=at(31), analysis=UNSURE).phase is Phase.CANARY


def test_an_ended_rollout_takes_no_command() -> None:
    ended = abort(canary(), now=at(1), reason="enough")
    assert ended.phase is Phase.ABORTED
    assert advance(ended, PLAN, now=at(9), analysis=GOOD) == ended
    for command in (lambda: pause(ended, now=T0, reason=""), lambda: abort(ended, now=T0, reason="")):
        with pytest.raises(RolloutEnded):
            command()
    with pytest.raises(RolloutNotPaused):
        resume(canary(), now=T0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Plan(steps=()),
        lambda: Plan(steps=(Step(0.5, 0, 0), Step(0.5, 0, 0))),
        lambda: Plan(steps=(Step(0.5, 0, 0), Step(0.2, 0, 0))),
        lambda: Step(0.0, 0, 0),
        lambda: Step(1.1, 0, 0),
        lambda: Step(0.5, -1, 0),
        lambda: Step(0.5, 0, -1),
    ],
)
def test_plans_that_make_no_sense_cannot_be_built(make: object) -> None:
    with pytest.raises(InvalidPlan):
        make()  # type: ignore[operator]


answers = st.sampled_from([None, GOOD, BAD, UNSURE, Analysis(Verdict.PASS, 5)])


@given(st.lists(st.tuples(st.floats(0, 400), answers), max_size=60))
def test_no_sequence_of_looks_leaves_the_state_machine(looks: list[tuple[float, Analysis | None]]) -> None:
    state, now = begin(T0), 0.0
    for wait, analysis in looks:
        now += wait
        before = state
        state = advance(state, PLAN, now=at(now), analysis=analysis)
        assert 0 <= state.step < len(PLAN.steps)
        assert (state.wake_at is None) == state.phase.ended
        assert not state.wake_at or state.wake_at >= at(now)
        if before.phase.ended:
            assert state == before
        if analysis is BAD and before.phase in {Phase.SHADOW, Phase.CANARY}:
            assert state.phase is Phase.ROLLED_BACK
        if state.phase is Phase.PROMOTED and before.phase is not Phase.PROMOTED:
            assert (before.phase, before.step, analysis) == (Phase.CANARY, 1, GOOD)
        shares = [route.weight for route in routes(1, 2, state, PLAN) if route.arm is not Arm.SHADOW]
        assert abs(sum(shares) - 1) < 1e-9


def test_routes_follow_the_rollout() -> None:
    assert routes(None, None, None, None) == ()
    assert [(r.version, r.arm, r.weight) for r in routes(1, 2, canary(1), PLAN)] == [
        (1, Arm.LIVE, 0.5),
        (2, Arm.CANARY, 0.5),
    ]
    shadow = routes(1, 2, Rollout(Phase.SHADOW, 0, T0, T0), PLAN)
    assert [(r.arm, r.weight, r.shadow) for r in shadow] == [(Arm.LIVE, 1.0, False), (Arm.SHADOW, 1.0, True)]
    assert len(routes(1, 2, begin(T0), PLAN)) == 1


LAST = Rollout(Phase.CANARY, step=1, since=T0, wake_at=T0)


def test_a_closed_change_window_is_waited_for_and_then_the_rollout_goes_live() -> None:
    held = advance(LAST, PLAN, now=at(100_000), analysis=GOOD, objections=("outside_change_window",))
    assert (held.phase, held.step, held.wake_at) == (Phase.CANARY, 1, at(100_005))
    assert "outside_change_window" in held.reason
    assert advance(held, PLAN, now=at(100_005), analysis=GOOD).phase is Phase.PROMOTED


def test_a_failing_analysis_rolls_back_while_the_window_is_closed() -> None:
    ended = advance(LAST, PLAN, now=at(70), analysis=BAD, objections=("outside_change_window",))
    assert ended.phase is Phase.ROLLED_BACK


def test_any_other_objection_is_waited_for_until_the_time_is_over() -> None:
    objections = ("insufficient_approvals", "outside_change_window")
    held = advance(LAST, PLAN, now=at(70), analysis=GOOD, objections=objections)
    assert held.phase is Phase.CANARY
    ended = advance(LAST, PLAN, now=at(601), analysis=GOOD, objections=objections)
    assert (ended.phase, "insufficient_approvals" in ended.reason) == (Phase.ROLLED_BACK, True)


def test_objections_hold_the_promotion_and_no_earlier_step() -> None:
    moved = advance(canary(), PLAN, now=at(70), analysis=GOOD, objections=("outside_change_window",))
    assert (moved.phase, moved.step) == (Phase.CANARY, 1)


@given(
    looks=st.lists(
        st.tuples(
            st.floats(0, 400),
            st.sampled_from([None, GOOD, BAD, UNSURE]),
            st.sampled_from([(), ("outside_change_window",), ("status_not_allowed",)]),
        ),
        max_size=30,
    )
)
def test_no_sequence_of_looks_promotes_against_an_objection_or_skips_a_step(
    looks: list[tuple[float, Analysis | None, tuple[str, ...]]],
) -> None:
    rollout, now = begin(T0), 0.0
    for wait, analysis, objections in looks:
        now += wait
        before, rollout = rollout, advance(rollout, PLAN, now=at(now), analysis=analysis, objections=objections)
        if rollout.phase is Phase.PROMOTED and before.phase is not Phase.PROMOTED:
            assert objections == ()
            assert (before.phase, before.step) == (Phase.CANARY, 1)
            assert analysis is GOOD
        if rollout.phase is Phase.CANARY and before.phase is Phase.CANARY:
            assert rollout.step - before.step in {0, 1}
        if before.phase.ended:
            assert rollout is before


def figures(**challenger: float) -> dict[str, dict[str, float]]:
    champion = {"rows": 900, "errors": 0, "latency_ms_p99": 10.0, "loss_mean": 0.30, "score_mean": 0.4}
    usual = {"rows": 200, "errors": 0, "latency_ms_p99": 11.0, "loss_mean": 0.31, "score_mean": 0.41}
    return {"champion": champion, "challenger": {**usual, **challenger}}


@pytest.mark.parametrize(
    ("limits", "changed", "named"),
    [
        (Thresholds(error_rate_max=0.01), {"errors": 3}, "error rate"),
        (Thresholds(latency_ms_p99_max=20), {"latency_ms_p99": 21}, "p99 latency in ms"),
        (Thresholds(latency_ratio_max=1.5), {"latency_ms_p99": 16}, "p99 latency over"),
        (Thresholds(loss_increase_max=0.02), {"loss_mean": 0.33}, "mean loss"),
        (Thresholds(score_shift_max=0.1), {"score_mean": 0.25}, "shift"),
    ],
)
def test_a_figure_over_its_limit_fails_the_analysis(limits: Thresholds, changed: dict[str, float], named: str) -> None:
    assert judged(GOOD, figures(), limits) is GOOD
    found = judged(GOOD, figures(**changed), limits)
    assert found.verdict is Verdict.FAIL
    assert named in found.reasons[0]


def test_limits_are_not_judged_on_few_rows_or_absent_figures() -> None:
    limits = Thresholds(error_rate_max=0.0, latency_ratio_max=1.0, loss_increase_max=0.0, rows_min=100)
    assert judged(GOOD, figures(rows=99, errors=99), limits) is GOOD
    assert judged(GOOD, {"challenger": {"rows": 500, "errors": 0}, "champion": None}, limits) is GOOD
