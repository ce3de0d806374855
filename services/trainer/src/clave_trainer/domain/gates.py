"""Which challengers may go on: every gate, its figure, its limit and its verdict.

A gate never decides on a point estimate where an interval can be had. `fail` refuses the run, `review` asks a
human, `pass` goes on. The rules here get figures and return verdicts; who computes the figures and who acts on
the verdicts is elsewhere (`clave_trainer.runtime.evaluation`, `clave_trainer.steps`).
"""

from dataclasses import dataclass, field
from enum import StrEnum

from clave_trainer.domain.discrimination import PairedComparison
from clave_trainer.domain.fairness import FairnessRule, GroupComparison, Verdict, worst
from clave_trainer.domain.intervals import Interval


class PrimaryMetric(StrEnum):
    """What a challenger has to improve."""

    LOG_LOSS = "log_loss"
    AUC = "auc"
    BRIER = "brier"


class Direction(StrEnum):
    """Which side of a limit is good."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's answer.

    Attributes:
        gate: Its name, such as ``champion_challenger``.
        verdict: What it says.
        reason: One sentence with the figures, for a reader who did not run it.
        facts: Every figure: estimate, interval, limit, rows.
    """

    gate: str
    verdict: Verdict
    reason: str
    facts: dict[str, float | str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChallengerRule:
    """What a challenger must show against the champion.

    Attributes:
        primary: Metric that must improve significantly.
        alpha: Level of the one-sided tests.
        improvement_min: Improvement below which a significant one is still too small to bother.
        guard_margin: How much AUC may be lost at most, by the one-sided bound.
        rows_min: Rows below which no comparison is trusted.
    """

    primary: PrimaryMetric = PrimaryMetric.LOG_LOSS
    alpha: float = 0.05
    improvement_min: float = 0.0
    guard_margin: float = 0.03
    rows_min: int = 100


def challenger_gate(rule: ChallengerRule, *, primary: PairedComparison, auc: PairedComparison) -> list[GateResult]:
    """Judge a challenger: better in the primary metric, not worse in AUC.

    Args:
        rule: The policy.
        primary: Paired comparison in the primary metric, positive favours the challenger.
        auc: Paired comparison of AUC on the same rows.

    Returns:
        Two results: ``champion_challenger`` and ``non_inferiority``.
    """
    return [_superiority(rule, primary), _non_inferiority(rule, auc)]


def _superiority(rule: ChallengerRule, shown: PairedComparison) -> GateResult:
    significant = shown.p_better < rule.alpha
    large = shown.improvement >= rule.improvement_min
    if shown.n < rule.rows_min:
        verdict, why = Verdict.FAIL, f"only {shown.n} rows to compare on, {rule.rows_min} are needed"
    elif significant and large:
        verdict, why = Verdict.PASS, "better than the champion"
    elif significant:
        verdict, why = Verdict.FAIL, f"better by less than the {rule.improvement_min:g} asked for"
    else:
        verdict, why = Verdict.FAIL, "not significantly better than the champion"
    reason = (
        f"{rule.primary} {shown.challenger:.4f} against {shown.champion:.4f} on {shown.n} rows "
        f"(improvement {shown.improvement:+.4f}, p {shown.p_better:.2g}): {why}"
    )
    facts: dict[str, float | str | None] = {
        "metric": str(rule.primary),
        "alpha": rule.alpha,
        "limit": rule.improvement_min,
    }
    return GateResult("champion_challenger", verdict, reason, {**facts, **shown.as_facts()})


def _non_inferiority(rule: ChallengerRule, shown: PairedComparison) -> GateResult:
    kept = shown.lower_one_sided > -rule.guard_margin
    verdict = Verdict.PASS if kept else Verdict.FAIL
    reason = (
        f"auc {shown.challenger:.4f} against {shown.champion:.4f}: at worst {shown.lower_one_sided:+.4f} "
        f"at level {rule.alpha:g}, {'within' if kept else 'beyond'} the margin of {rule.guard_margin:g}"
    )
    facts: dict[str, float | str | None] = {"metric": "auc", "alpha": rule.alpha, "limit": -rule.guard_margin}
    return GateResult("non_inferiority", verdict, reason, {**facts, **shown.as_facts()})


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on a figure of the challenger alone."""

    metric: str
    direction: Direction
    bound: float


def limit_gate(gate: str, limit: Limit, shown: Interval | float, *, rows: int, unit: str = "") -> GateResult:
    """Judge a figure against a fixed limit.

    An interval wholly on the wrong side fails; one that straddles the limit with its estimate on the good side
    passes, and with its estimate on the wrong side asks for review.

    Args:
        gate: Name of the gate.
        limit: The bound.
        shown: The figure, with its interval where it has one.
        rows: Rows it was measured on.
        unit: Printed after the figure.
    """
    interval = shown if isinstance(shown, Interval) else Interval(shown, shown, shown)
    sign = 1.0 if limit.direction is Direction.AT_LEAST else -1.0
    best = max(sign * interval.lower, sign * interval.upper)
    if sign * interval.estimate >= sign * limit.bound:
        verdict = Verdict.PASS
    elif best >= sign * limit.bound:
        verdict = Verdict.REVIEW
    else:
        verdict = Verdict.FAIL
    words = "at least" if limit.direction is Direction.AT_LEAST else "at most"
    reason = (
        f"{limit.metric} {interval.estimate:.4g}{unit} ({interval.lower:.4g} to {interval.upper:.4g}, "
        f"{rows} rows), {words} {limit.bound:g}{unit} is asked for"
    )
    facts: dict[str, float | str | None] = {
        "metric": limit.metric,
        "direction": str(limit.direction),
        "limit": limit.bound,
        "n": float(rows),
        **interval.as_facts(),
    }
    return GateResult(gate, verdict, reason, facts)


def fairness_gate(rule: FairnessRule, comparisons: list[GroupComparison]) -> GateResult:
    """Judge one protected attribute by the measure that its policy names.

    Args:
        rule: The policy.
        comparisons: Groups compared in that measure.
    """
    verdict = worst([each.verdict for each in comparisons])
    told = [
        f"{each.group} against {each.reference}: {each.interval.estimate:.3f} "
        f"({each.interval.lower:.3f} to {each.interval.upper:.3f}, n {each.n}) {each.verdict}"
        for each in comparisons
    ]
    reason = f"{rule.attribute}, {rule.metric} with limit {rule.limit:g}: {'; '.join(told) or 'a single group'}"
    if verdict is Verdict.REVIEW:
        reason += "; the rows cannot tell whether the limit is kept"
    facts: dict[str, float | str | None] = {
        "attribute": rule.attribute,
        "metric": str(rule.metric),
        "limit": rule.limit,
    }
    if comparisons:
        gravest = min(comparisons, key=lambda each: (each.verdict != verdict, each.n))
        facts |= {**gravest.interval.as_facts(), "group": gravest.group, "n": float(gravest.n)}
    return GateResult(f"fairness:{rule.attribute}", verdict, reason, facts)


def overall(results: list[GateResult]) -> Verdict:
    """Return the gravest verdict of all gates."""
    return worst([each.verdict for each in results])
