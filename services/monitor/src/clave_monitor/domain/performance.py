"""Performance: realised from labels, estimated without them, and the evidence that it is harmed.

Rules:
* Realised metrics come from joined labels only and say on how many rows they stand.
* Harm is a test, not a threshold: a betting e-SR asks whether the mean loss exceeds the reference's loss by
  more than the tolerance; on average at least `run_length_labels` labels pass between false alarms.
* The estimate (CBPE) takes the calibrated score for the truth. It holds while the outcome's chance given
  the features holds: it is blind to concept drift, and is published as an estimate with a band.
* An estimated drop counts when a loss exceeds the reference's by more than the tolerance and three
  standard errors.

Sources: Shin, Ramdas, Rinaldo (2024), E-detectors; Kuberski et al., NannyML documentation of CBPE.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clave_monitor.domain.calibration import Calibration, calibrate
from clave_monitor.domain.scores import (
    LOSSES,
    Scored,
    auc_standard_error,
    confusion_metrics,
    log_loss,
    losses,
    metrics,
)

Floats = NDArray[np.float64]

_BETS = np.array([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
_BET_LIMIT = 0.95
_LEVEL_MAX = 1e300
_BAND_ERRORS = 3.0


@dataclass(frozen=True)
class PerformancePolicy:
    """When performance counts as harmed.

    Attributes:
        loss_tolerance: How much worse than the reference the mean loss may be, in [0, 1].
        run_length_labels: Average number of labels between false alarms of harm, at least.
        estimated_drop_max: How much worse than the reference the estimated loss may be, in [0, 1].
        estimate_rows_min: Rows below which no estimate is published.
    """

    loss_tolerance: float = 0.03
    run_length_labels: float = 100_000.0
    estimated_drop_max: float = 0.03
    estimate_rows_min: int = 100


@dataclass(frozen=True)
class Harm:
    """Accumulated evidence that the mean loss exceeds what is accepted.

    One e-SR recursion runs per loss and bet size; their mean is compared with the threshold. A factor
    1 + bet (loss - accepted) is never negative because the bet stays below 1 / accepted, and has an
    expectation of at most 1 while the mean loss given the past is at most `accepted`.

    Attributes:
        levels: Recursions since the last alarm, row-major losses x bets; empty before the first label.
        latched: The highest mean since the latch was cleared.
        labels: Labels seen since the latch was cleared.
    """

    levels: tuple[float, ...] = ()
    latched: float = 0.0
    labels: int = 0

    def add(self, losses_seen: dict[str, Floats], accepted: dict[str, float], *, threshold: float) -> "Harm":
        """Return the state after more labels, in the order in which they came.

        Args:
            losses_seen: Loss per label, each of shape (labels,), in [0, 1].
            accepted: Accepted mean of each loss, in (0, 1).
            threshold: Least average number of labels between false alarms.
        """
        names = [name for name in LOSSES if name in losses_seen and name in accepted]
        if not names:
            return self
        bets = np.stack([np.minimum(_BETS, _BET_LIMIT / max(accepted[name], 1e-6)) for name in names])
        limit = np.array([[accepted[name]] for name in names])
        seen = np.stack([losses_seen[name] for name in names])
        level = np.array(self.levels or np.zeros(bets.size)).reshape(bets.shape)
        latched = self.latched
        for loss in seen.T:
            level = np.minimum((1 + level) * (1 + bets * (loss[:, None] - limit)), _LEVEL_MAX)
            mean = float(level.mean())
            latched = max(latched, mean)
            if mean >= threshold:
                level = np.zeros_like(level)
        return Harm(tuple(level.ravel().tolist()), latched, self.labels + seen.shape[1])

    def proven(self, threshold: float) -> bool:
        """Say whether harm has been proven since the latch was cleared."""
        return self.latched >= threshold

    @property
    def log10(self) -> float:
        """The latched evidence as a power of ten, at least -3."""
        return math.log10(max(self.latched, 1e-3))


@dataclass(frozen=True)
class Baseline:
    """What the reference says about a model's performance.

    Attributes:
        scored: The reference's rows with score and outcome.
        calibration: Map of a score to the chance of the positive outcome.
        metrics: The reference's realised metrics.
    """

    scored: Scored
    calibration: Calibration
    metrics: dict[str, float]

    def accepted(self, policy: PerformancePolicy) -> dict[str, float]:
        """Return the mean of each loss that is accepted, below 1."""
        return {name: min(self.metrics[name] + policy.loss_tolerance, 0.999) for name in LOSSES}


def baseline(scored: Scored) -> Baseline | None:
    """Learn the baseline of a binary classifier, or None where the reference holds no two classes."""
    usable = np.isfinite(scored.score) & np.isfinite(scored.outcome)
    rows = Scored(scored.score[usable], scored.outcome[usable], scored.threshold)
    if not np.array_equal(np.unique(rows.outcome), [0.0, 1.0]):
        return None
    if rows.score.min() < 0 or rows.score.max() > 1:
        return None
    return Baseline(rows, calibrate(rows.score, rows.outcome), metrics(rows))


@dataclass(frozen=True)
class Estimate:
    """Performance estimated without labels.

    Attributes:
        rows: Rows that the estimate stands on.
        metrics: Estimated metrics.
        standard_errors: Sampling error of a metric on that many rows, for the metrics that have one.
        dropped: Losses that exceed the reference's by more than the tolerance and three standard errors.
    """

    rows: int
    metrics: dict[str, float]
    standard_errors: dict[str, float]
    dropped: tuple[str, ...]


def estimate(reference: Baseline, score: Floats, policy: PerformancePolicy) -> Estimate | None:
    """Estimate the performance on rows without outcomes (CBPE), or None below the least number of rows.

    Args:
        reference: The baseline of the model version.
        score: Scores of the rows, shape (rows,); not finite ones are left out.
        policy: When a drop counts.
    """
    score = score[np.isfinite(score)]
    if len(score) < policy.estimate_rows_min:
        return None
    found = _expected_metrics(score, reference)
    errors = _standard_errors(reference, rows=len(score))
    dropped = tuple(
        name
        for name in LOSSES
        if found[name] - reference.metrics[name] > policy.estimated_drop_max + _BAND_ERRORS * errors[name]
    )
    return Estimate(len(score), found, errors, dropped)


def _expected_metrics(score: Floats, reference: Baseline) -> dict[str, float]:
    chance = reference.calibration.apply(score)
    predicted = score >= reference.scored.threshold
    found = confusion_metrics(
        tp=float(chance[predicted].sum()),
        fp=float((1 - chance[predicted]).sum()),
        fn=float(chance[~predicted].sum()),
        tn=float((1 - chance[~predicted]).sum()),
    )
    found["error"] = 1 - found["accuracy"]
    clipped = np.clip(score, 0.0, 1.0)
    found["brier"] = float(np.mean(chance * (clipped - 1) ** 2 + (1 - chance) * clipped**2))
    found["log_loss"] = log_loss(score, chance)
    area = _expected_auc(score, chance)
    return found if area is None else found | {"auc": area}


def _expected_auc(score: Floats, chance: Floats) -> float | None:
    values, inverse = np.unique(-score, return_inverse=True)
    positives = np.bincount(inverse, weights=chance, minlength=len(values))
    negatives = np.bincount(inverse, weights=1 - chance, minlength=len(values))
    if positives.sum() <= 0 or negatives.sum() <= 0:
        return None
    hit_rate = np.concatenate([[0.0], np.cumsum(positives) / positives.sum()])
    false_rate = np.concatenate([[0.0], np.cumsum(negatives) / negatives.sum()])
    return float(np.sum(np.diff(false_rate) * (hit_rate[1:] + hit_rate[:-1]) / 2))


def _standard_errors(reference: Baseline, *, rows: int) -> dict[str, float]:
    """Return sampling errors on `rows` rows, the reference's own uncertainty added."""
    spread = 1 / rows + 1 / reference.scored.rows
    errors = {name: float(loss.std() * math.sqrt(spread)) for name, loss in losses(reference.scored).items()}
    errors["accuracy"] = errors["error"]
    scored = reference.scored
    errors["auc"] = math.hypot(
        auc_standard_error(scored.score, scored.outcome, rows=rows),
        auc_standard_error(scored.score, scored.outcome, rows=scored.rows),
    )
    return errors
