"""Judge the groups of every protected attribute, and of every pair of them, and report slices for the card.

Single attributes are judged by the measure that the policy names for them. A pair is judged by the gap of true positive
rates where the policy names the pair (``female x senior_citizen``) or one of its attributes, by the strictest of their
limits: where equal selection would be wrong for an attribute, it is wrong for its intersections too. Any other pair is
judged by the parity ratio. The intervals of pairs are simultaneous; small intersections are left out and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clave_trainer.domain import gates
from clave_trainer.domain.arrays import Bools
from clave_trainer.domain.fairness import (
    FairnessMetric,
    FairnessRule,
    GroupComparison,
    GroupFigures,
    Verdict,
    compare_groups,
    group_figures,
)
from clave_trainer.domain.gates import GateResult
from clave_trainer.domain.intersections import PAIR, Crossing, crossings, family_confidence
from clave_trainer.runtime.frames import Frame


@dataclass(frozen=True)
class FairnessReport:
    """What the groups show.

    Attributes:
        gates: One per attribute, then one per pair.
        figures: Every measure by attribute or pair.
        slices: One row per group, then one per intersection.
    """

    gates: list[GateResult] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    slices: list[dict[str, Any]] = field(default_factory=list)


def fairness_report(policy: dict[str, Any], frame: Frame, selected: Bools) -> FairnessReport:
    """Judge every protected attribute and every pair of them.

    Args:
        policy: The gate policy as JSON.
        frame: The rows that judge; `Frame.extras` holds the protected attributes.
        selected: True where the model's label is positive, shape (n,).
    """
    report = FairnessReport()
    for attribute, values in frame.extras.items():
        figures = group_figures(values, frame.outcomes, selected)
        _judge(report, policy, (attribute,), figures)
        report.slices.extend({"attribute": attribute, "group": one.group, **_rates(one)} for one in figures)
    crossed = crossings(frame.extras, frame.outcomes, selected, rows_min=policy["group_rows_min"])
    confidence = family_confidence(crossed)
    for crossing in crossed:
        if crossing.comparisons:
            told = _told_of(crossing, sum(each.comparisons for each in crossed))
            _judge(report, policy, crossing.attributes, crossing.figures, confidence=confidence, told=told)
        report.slices.extend(
            {"groups": dict(zip(crossing.attributes, levels, strict=True)), **_rates(one)}
            for levels, one in zip(crossing.levels, crossing.figures, strict=True)
        )
    return report


def _judge(
    report: FairnessReport,
    policy: dict[str, Any],
    attributes: tuple[str, ...],
    figures: Sequence[GroupFigures],
    *,
    confidence: float = 0.95,
    told: str = "",
) -> None:
    rule = _rule(policy, attributes)
    name, metric, rows_min = rule.attribute, rule.metric, rule.group_rows_min
    shown = {
        each: compare_groups(
            figures,
            each,
            limit=rule.limit if each is metric else policy["parity_ratio_min"],
            group_rows_min=rows_min,
            confidence=confidence,
        )
        for each in FairnessMetric
    }
    gate = gates.fairness_gate(rule, shown[metric])
    gate = replace(gate, reason=gate.reason + told)
    if gate.verdict is Verdict.FAIL and not policy["parity_blocks"]:
        reason = f"{gate.reason}; the policy lets a human decide"
        gate = GateResult(gate.gate, Verdict.REVIEW, reason, gate.facts)
    report.gates.append(gate)
    report.figures[name] = {
        "judged_by": str(metric),
        "limit": rule.limit,
        "verdict": str(gate.verdict),
        **{str(each): [_compared(one) for one in found] for each, found in shown.items()},
    }


def _rule(policy: dict[str, Any], attributes: tuple[str, ...]) -> FairnessRule:
    name, gaps = PAIR.join(attributes), policy["true_positive_rate_gap_max"]
    limits = [gaps[name]] if name in gaps else [gaps[each] for each in attributes if each in gaps]
    if limits:
        return FairnessRule(name, FairnessMetric.TPR_GAP, min(limits), policy["group_rows_min"])
    return FairnessRule(name, FairnessMetric.PARITY_RATIO, policy["parity_ratio_min"], policy["group_rows_min"])


def _told_of(crossing: Crossing, comparisons: int) -> str:
    told = f"; intervals hold together over {comparisons} comparisons of intersections"
    return f"{told}, too small and left out: {crossing.left_out}" if crossing.left_out else told


def _rates(group: GroupFigures) -> dict[str, Any]:
    rates: dict[str, Any] = {
        "rows": group.rows,
        "positive_rate": group.positives / group.rows,
        "selection_rate": group.selected / group.rows,
    }
    if group.positives:
        rates["true_positive_rate"] = group.true_positives / group.positives
    return rates


def _compared(comparison: GroupComparison) -> dict[str, Any]:
    return {
        "group": comparison.group,
        "reference": comparison.reference,
        "estimate": _finite(comparison.interval.estimate),
        "low": _finite(comparison.interval.lower),
        "high": _finite(comparison.interval.upper),
        "n": comparison.n,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
