"""How well scores order rows: the area under the ROC curve and the paired comparison of two models."""

from dataclasses import dataclass

import numpy as np

from clave_trainer.domain.arrays import Bools, Floats
from clave_trainer.domain.intervals import Interval, upper_tail, z_of, z_one_sided

_ROWS_OF_A_CLASS_MIN = 2


class TooFewOutcomes(ValueError):
    """A comparison needs at least two rows of each outcome."""


def midranks(values: Floats) -> Floats:
    """Rank values from 1, ties sharing their mean rank, shape kept."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], ordered.size]
    means = (starts + ends + 1) / 2.0
    ranks = np.empty(values.size, dtype=np.float64)
    ranks[order] = np.repeat(means, ends - starts)
    return ranks


@dataclass(frozen=True, slots=True)
class Placement:
    """One model's AUC with the share of the other class that each row is placed above."""

    auc: float
    of_positives: Floats
    of_negatives: Floats


def place(outcomes: Bools, scores: Floats) -> Placement:
    """Compute the AUC and its structural components, in O(n log n).

    Args:
        outcomes: True for a positive row, shape (n,).
        scores: Higher means more likely positive, shape (n,).

    Returns:
        The AUC in [0, 1] and the components of shapes (m,) and (n - m,).

    Raises:
        TooFewOutcomes: Fewer than two rows of a class.

    Source: DeLong, DeLong, Clarke-Pearson (1988), Biometrics 44:837; Sun, Xu (2014), IEEE SPL 21:1389.
    """
    positive, negative = scores[outcomes], scores[~outcomes]
    m, n = positive.size, negative.size
    if min(m, n) < _ROWS_OF_A_CLASS_MIN:
        msg = f"{m} positive and {n} negative rows; two of each are needed"
        raise TooFewOutcomes(msg)
    together = midranks(np.concatenate([positive, negative]))
    auc = float(together[:m].sum() / (m * n) - (m + 1) / (2 * n))
    return Placement(
        auc=auc,
        of_positives=(together[:m] - midranks(positive)) / n,
        of_negatives=1 - (together[m:] - midranks(negative)) / m,
    )


def auc_interval(outcomes: Bools, scores: Floats, confidence: float = 0.95) -> Interval:
    """Return the AUC with DeLong's interval, cut to [0, 1]."""
    placed = place(outcomes, scores)
    variance = placed.of_positives.var(ddof=1) / placed.of_positives.size
    variance += placed.of_negatives.var(ddof=1) / placed.of_negatives.size
    half = z_of(confidence) * float(np.sqrt(variance))
    return Interval(placed.auc, max(0.0, placed.auc - half), min(1.0, placed.auc + half))


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Challenger against champion on the same rows; a positive difference favours the challenger.

    Attributes:
        champion: The champion's figure.
        challenger: The challenger's figure.
        improvement: Signed so that more is better.
        standard_error: Of the improvement, paired.
        p_better: One-sided p value of "the challenger is not better".
        lower_one_sided: Lower bound of the improvement at ``1 - alpha``.
        n: Rows compared.
    """

    champion: float
    challenger: float
    improvement: float
    standard_error: float
    p_better: float
    lower_one_sided: float
    n: int

    def as_facts(self) -> dict[str, float]:
        """Render for a report."""
        return {
            "champion": self.champion,
            "challenger": self.challenger,
            "improvement": self.improvement,
            "standard_error": self.standard_error,
            "p_better": self.p_better,
            "lower_one_sided": self.lower_one_sided,
            "n": float(self.n),
        }


def paired(
    *, champion: float, challenger: float, improvement: float, error: float, n: int, alpha: float
) -> PairedComparison:
    """Turn an improvement and its standard error into a one-sided test; equal models give p = .5."""
    certain = 0.5 if improvement == 0 else float(improvement < 0)
    p_better = upper_tail(improvement / error) if error > 0 else certain
    return PairedComparison(
        champion=champion,
        challenger=challenger,
        improvement=improvement,
        standard_error=error,
        p_better=p_better,
        lower_one_sided=improvement - z_one_sided(alpha) * error,
        n=n,
    )


def compare_auc(outcomes: Bools, *, champion: Floats, challenger: Floats, alpha: float = 0.05) -> PairedComparison:
    """Compare two AUCs on the same rows by the paired DeLong test.

    Args:
        outcomes: True for a positive row, shape (n,).
        champion: Scores of the champion, shape (n,).
        challenger: Scores of the challenger, shape (n,).
        alpha: Level of the one-sided bound, in (0, 1).

    Returns:
        The comparison; an equal challenger gets ``p_better < .05`` in 3.3 to 5.5 % of draws.

    Raises:
        TooFewOutcomes: Fewer than two rows of a class.
    """
    old, new = place(outcomes, champion), place(outcomes, challenger)
    positives = new.of_positives - old.of_positives
    negatives = new.of_negatives - old.of_negatives
    variance = positives.var(ddof=1) / positives.size + negatives.var(ddof=1) / negatives.size
    return paired(
        champion=old.auc,
        challenger=new.auc,
        improvement=new.auc - old.auc,
        error=float(np.sqrt(variance)),
        n=outcomes.size,
        alpha=alpha,
    )
