"""Whether a model treats the groups of a protected attribute alike, as far as the rows can tell.

No model satisfies every fairness measure at once, so a policy names ONE for each attribute; the others are
reported. The decision is taken on the interval, never on the point: a ratio of .92 measured on 100 rows falls
below .8 by chance in 17 % of draws.

    fail    the whole interval is beyond the limit
    pass    the whole interval is within it
    review  the rows cannot tell, or a group is too small: a human decides
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np

from clave_trainer.domain.arrays import Bools
from clave_trainer.domain.intervals import Interval, difference_of_rates, ratio_of_rates


class Verdict(StrEnum):
    """What a gate says."""

    PASS = "pass"  # noqa: S105 - a verdict, not a secret
    REVIEW = "review"
    FAIL = "fail"


class FairnessMetric(StrEnum):
    """What is compared between groups."""

    PARITY_RATIO = "statistical_parity_ratio"
    TPR_GAP = "true_positive_rate_gap"
    FPR_GAP = "false_positive_rate_gap"


@dataclass(frozen=True, slots=True)
class FairnessRule:
    """The policy for one attribute.

    Attributes:
        attribute: Name of the protected attribute.
        metric: The one measure that decides.
        limit: Smallest ratio (statistical parity, .8 is the four-fifths rule) or largest gap, in (0, 1].
        group_rows_min: Below this a group is reported and not judged.
    """

    attribute: str
    metric: FairnessMetric
    limit: float
    group_rows_min: int = 50


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """One group's rows and rates."""

    group: str
    rows: int
    positives: int
    selected: int
    true_positives: int

    @property
    def negatives(self) -> int:
        """Rows whose outcome was negative."""
        return self.rows - self.positives

    @property
    def false_positives(self) -> int:
        """Selected rows whose outcome was negative."""
        return self.selected - self.true_positives


@dataclass(frozen=True, slots=True)
class GroupComparison:
    """A group against the largest one, in one measure."""

    metric: FairnessMetric
    group: str
    reference: str
    interval: Interval
    verdict: Verdict
    n: int


def group_figures(values: list[str], outcomes: Bools, selected: Bools) -> list[GroupFigures]:
    """Count each group, the largest first.

    Args:
        values: The attribute of each row, shape (n,).
        outcomes: True for a positive row, shape (n,).
        selected: True where the model's label is positive, shape (n,).
    """
    column = np.array(values, dtype=np.str_)
    figures = []
    for group in np.unique(column):
        rows = column == group
        figures.append(
            GroupFigures(
                group=str(group),
                rows=int(rows.sum()),
                positives=int((rows & outcomes).sum()),
                selected=int((rows & selected).sum()),
                true_positives=int((rows & outcomes & selected).sum()),
            )
        )
    return sorted(figures, key=lambda each: (-each.rows, each.group))


def compare_groups(
    figures: Sequence[GroupFigures],
    metric: FairnessMetric,
    *,
    limit: float,
    group_rows_min: int,
    confidence: float = 0.95,
) -> list[GroupComparison]:
    """Compare every group with the largest one.

    Args:
        figures: Groups, the largest first.
        metric: The measure.
        limit: See `FairnessRule`.
        group_rows_min: Rows that the measure's denominator needs in each group.
        confidence: Coverage of each interval, in (0, 1); above .95 where many comparisons share one error.

    Returns:
        One comparison per further group; empty when there is a single group.
    """
    if not figures:
        return []
    reference, *others = figures
    return [_compare(each, reference, metric, limit, group_rows_min, confidence) for each in others]


def _compare(
    group: GroupFigures,
    reference: GroupFigures,
    metric: FairnessMetric,
    limit: float,
    rows_min: int,
    confidence: float,
) -> GroupComparison:
    hits_a, n_a = _cell(group, metric)
    hits_b, n_b = _cell(reference, metric)
    smaller = min(n_a, n_b)
    if smaller == 0:
        interval, verdict = Interval(float("nan"), 0.0, float("inf")), Verdict.REVIEW
    elif metric is FairnessMetric.PARITY_RATIO:
        if hits_a * n_b > hits_b * n_a:  # the less selected group stands above the line
            hits_a, n_a, hits_b, n_b = hits_b, n_b, hits_a, n_a
        interval = ratio_of_rates(hits_a, n_a, hits_b, n_b, confidence)
        verdict = ratio_verdict(interval, limit)
    else:
        interval = difference_of_rates(hits_a, n_a, hits_b, n_b, confidence)
        verdict = gap_verdict(interval, limit)
    if smaller < rows_min:
        verdict = Verdict.REVIEW
    return GroupComparison(metric, group.group, reference.group, interval, verdict, smaller)


def _cell(figures: GroupFigures, metric: FairnessMetric) -> tuple[int, int]:
    match metric:
        case FairnessMetric.PARITY_RATIO:
            return figures.selected, figures.rows
        case FairnessMetric.TPR_GAP:
            return figures.true_positives, figures.positives
        case FairnessMetric.FPR_GAP:
            return figures.false_positives, figures.negatives
    assert_never(metric)


def ratio_verdict(interval: Interval, limit: float) -> Verdict:
    """Judge a ratio that should not fall below ``limit``."""
    if interval.upper < limit:
        return Verdict.FAIL
    return Verdict.PASS if interval.lower >= limit else Verdict.REVIEW


def gap_verdict(interval: Interval, limit: float) -> Verdict:
    """Judge a difference whose size should not exceed ``limit``."""
    if interval.lower > limit or interval.upper < -limit:
        return Verdict.FAIL
    within = -limit <= interval.lower and interval.upper <= limit
    return Verdict.PASS if within else Verdict.REVIEW


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the gravest verdict; nothing to judge passes."""
    for grave in (Verdict.FAIL, Verdict.REVIEW):
        if grave in verdicts:
            return grave
    return Verdict.PASS
