"""Metrics of a binary classifier's scores against outcomes, and the two losses that harm is measured in.

Losses lie in [0, 1], whatever the scores, so that betting on their mean is sound. A metric that the
rows cannot give (AUC of one class) is absent, never NaN.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LOG_FLOOR = 1e-6
LOSSES = ("error", "brier")


@dataclass(frozen=True)
class Scored:
    """Rows with a score and an outcome.

    Attributes:
        score: Probability of the positive class, shape (rows,), in [0, 1].
        outcome: 0.0 or 1.0, shape (rows,).
        threshold: A score at or above it is a positive prediction.
    """

    score: Floats
    outcome: Floats
    threshold: float = 0.5

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.score)

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Which rows are predicted positive, shape (rows,)."""
        return self.score >= self.threshold


def losses(scored: Scored) -> dict[str, Floats]:
    """Return each loss per row, shape (rows,), in [0, 1]."""
    score = np.clip(scored.score, 0.0, 1.0)
    return {
        "error": (scored.predicted != (scored.outcome > 0)).astype(np.float64),
        "brier": (score - scored.outcome) ** 2,
    }


def metrics(scored: Scored) -> dict[str, float]:
    """Return what the rows can say: accuracy, precision, recall, f1, auc, log_loss, error, brier."""
    if scored.rows == 0:
        return {}
    positive, predicted = scored.outcome > 0, scored.predicted
    found = confusion_metrics(
        tp=float((positive & predicted).sum()),
        fp=float((~positive & predicted).sum()),
        fn=float((positive & ~predicted).sum()),
        tn=float((~positive & ~predicted).sum()),
    )
    found |= {name: float(loss.mean()) for name, loss in losses(scored).items()}
    found["log_loss"] = log_loss(scored.score, scored.outcome)
    area = auc(scored.score, scored.outcome)
    return found if area is None else found | {"auc": area}


def confusion_metrics(*, tp: float, fp: float, fn: float, tn: float) -> dict[str, float]:
    """Return accuracy, precision, recall and f1 where they exist; counts may be expected ones."""
    found = {"accuracy": (tp + tn) / (tp + fp + fn + tn)}
    if tp + fp > 0:
        found["precision"] = tp / (tp + fp)
    if tp + fn > 0:
        found["recall"] = tp / (tp + fn)
    if tp + fp + fn > 0:
        found["f1"] = 2 * tp / (2 * tp + fp + fn)
    return found


def log_loss(score: Floats, chance: Floats) -> float:
    """Return the mean cross entropy in nats, scores clipped to [1e-6, 1 - 1e-6].

    Args:
        score: Probabilities, shape (rows,).
        chance: Outcomes, or the calibrated chance of one, shape (rows,).
    """
    p = np.clip(score, _LOG_FLOOR, 1 - _LOG_FLOOR)
    return float(-np.mean(chance * np.log(p) + (1 - chance) * np.log(1 - p)))


def auc(score: Floats, outcome: Floats) -> float | None:
    """Return the area under the ROC curve by midranks, or None when a class is absent."""
    positive = outcome > 0
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return None
    return float((midranks(score)[positive].sum() - m * (m + 1) / 2) / (m * n))


def auc_standard_error(score: Floats, outcome: Floats, *, rows: int) -> float:
    """Return the sampling error of an AUC measured on `rows` rows like these.

    Uses the spread of the placements of the rarer class, as NannyML's sampling error does.
    """
    positive = outcome > 0
    rare = positive if positive.mean() <= 0.5 else ~positive  # noqa: PLR2004 - which class is the rarer one
    common = np.sort(score[~rare])
    if not rare.any() or len(common) == 0:
        return math.inf
    below = np.searchsorted(common, score[rare], side="left")
    ties = np.searchsorted(common, score[rare], side="right") - below
    placements = (below + ties / 2) / len(common)
    return float(placements.std() / math.sqrt(max(rows * float(rare.mean()), 1.0)))


def midranks(values: Floats) -> Floats:
    """Return ranks from 1, ties sharing their mean rank, shape (rows,)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Floats = (last - (counts - 1) / 2).astype(np.float64)
    return middle[inverse]
