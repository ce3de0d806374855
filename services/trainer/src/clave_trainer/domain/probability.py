"""How well scores are probabilities: log loss, Brier score, calibration, and the threshold of a decision."""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np

from clave_trainer.domain.arrays import Bools, Floats
from clave_trainer.domain.discrimination import PairedComparison, paired
from clave_trainer.domain.intervals import Interval, z_of

_CLIP = 1e-7  # a float32 probability closer to 0 or 1 than this is 0 or 1 by rounding alone


def log_losses(outcomes: Bools, scores: Floats) -> Floats:
    """Return the log loss of each row in nats, shape (n,), scores clipped to [1e-7, 1 - 1e-7]."""
    clipped = np.clip(scores, _CLIP, 1 - _CLIP)
    losses: Floats = -np.where(outcomes, np.log(clipped), np.log1p(-clipped))
    return losses


def squared_errors(outcomes: Bools, scores: Floats) -> Floats:
    """Return the Brier score's term of each row, shape (n,), in [0, 1]."""
    errors: Floats = (scores - outcomes.astype(np.float64)) ** 2
    return errors


def mean_interval(terms: Floats, confidence: float = 0.95) -> Interval:
    """Return the mean of at least two row terms with its normal interval."""
    mean = float(terms.mean())
    half = z_of(confidence) * float(terms.std(ddof=1)) / float(np.sqrt(terms.size))
    return Interval(mean, mean - half, mean + half)


def compare_terms(*, champion: Floats, challenger: Floats, alpha: float = 0.05) -> PairedComparison:
    """Compare two mean losses on the same rows by the paired z test.

    Args:
        champion: Loss of the champion on each row, shape (n,), n at least 2.
        challenger: Loss of the challenger on the same rows, shape (n,).
        alpha: Level of the one-sided bound.

    Returns:
        The comparison in the loss's unit; the improvement is the champion's mean minus the challenger's.

    Source: Diebold, Mariano (1995), J. Bus. Econ. Stat. 13:253, for independent rows.
    """
    gain = champion - challenger
    return paired(
        champion=float(champion.mean()),
        challenger=float(challenger.mean()),
        improvement=float(gain.mean()),
        error=float(gain.std(ddof=1) / np.sqrt(gain.size)),
        n=gain.size,
        alpha=alpha,
    )


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Rows whose scores are neighbours: what was promised and what came."""

    rows: int
    mean_score: float
    outcome_rate: float


def reliability(outcomes: Bools, scores: Floats, bins: int = 10) -> list[CalibrationBin]:
    """Cut rows into bins of equal size by score.

    Args:
        outcomes: True for a positive row, shape (n,).
        scores: Probabilities, shape (n,).
        bins: Upper bound of the number of bins; fewer where there are fewer rows.

    Returns:
        The bins by rising score, none empty.
    """
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(bins, scores.size))
    return [CalibrationBin(part.size, float(scores[part].mean()), float(outcomes[part].mean())) for part in parts]


def expected_calibration_error(outcomes: Bools, scores: Floats, bins: int = 10) -> float:
    """Return the mean absolute gap between score and outcome over equal-sized bins, in [0, 1].

    Source: Naeini et al. (2015), AAAI, with equal-mass bins.
    """
    cut = reliability(outcomes, scores, bins)
    return sum(part.rows * abs(part.mean_score - part.outcome_rate) for part in cut) / scores.size


class ThresholdRule(StrEnum):
    """How the score becomes a label."""

    FIXED = "fixed"
    F1 = "f1"
    YOUDEN = "youden"
    COST = "cost"


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts at one threshold."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def accuracy(self) -> float:
        """Share of right labels."""
        return (self.true_positive + self.true_negative) / self.total

    @property
    def total(self) -> int:
        """Rows counted."""
        return self.true_positive + self.false_positive + self.true_negative + self.false_negative

    @property
    def precision(self) -> float:
        """Share of flagged rows that were positive; 0 when none was flagged."""
        return self.true_positive / max(1, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of positive rows that were flagged; 0 when there is none."""
        return self.true_positive / max(1, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 when both are."""
        return 2 * self.true_positive / max(1, 2 * self.true_positive + self.false_positive + self.false_negative)


def confusion(outcomes: Bools, scores: Floats, threshold: float) -> Confusion:
    """Count rows by outcome and by ``score >= threshold``."""
    flagged = scores >= threshold
    return Confusion(
        true_positive=int((flagged & outcomes).sum()),
        false_positive=int((flagged & ~outcomes).sum()),
        true_negative=int((~flagged & ~outcomes).sum()),
        false_negative=int((~flagged & outcomes).sum()),
    )


def choose_threshold(
    outcomes: Bools, scores: Floats, *, rule: ThresholdRule, fixed: float = 0.5, false_negative_cost: float = 1.0
) -> float:
    """Choose the threshold on validation rows.

    Args:
        outcomes: True for a positive row, shape (n,).
        scores: Probabilities, shape (n,).
        rule: What the threshold should serve.
        fixed: The threshold of rule ``fixed``.
        false_negative_cost: What a missed positive costs against a false alarm, for rule ``cost``.

    Returns:
        A float32-representable number in (0, 1): the label in the graph and the label here must agree.
    """
    if rule is ThresholdRule.FIXED:
        return float(np.float32(fixed))
    candidates = np.unique(np.clip(scores, 0.01, 0.99).round(2))
    gains = [_gain(confusion(outcomes, scores, at), rule, false_negative_cost) for at in candidates]
    return float(np.float32(candidates[int(np.argmax(gains))]))


def _gain(counts: Confusion, rule: ThresholdRule, false_negative_cost: float) -> float:
    match rule:
        case ThresholdRule.F1:
            return counts.f1
        case ThresholdRule.YOUDEN:
            negatives = max(1, counts.false_positive + counts.true_negative)
            return counts.recall - counts.false_positive / negatives
        case ThresholdRule.COST:
            return -(counts.false_positive + false_negative_cost * counts.false_negative)
        case ThresholdRule.FIXED:
            return 0.0
    assert_never(rule)
