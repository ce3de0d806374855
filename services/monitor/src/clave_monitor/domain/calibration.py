"""Calibration: from a score to the chance of the positive outcome, learnt on the reference.

Isotonic regression by pooling adjacent violators. It is kept only if it lowers the expected calibration error
over ten stratified 90/10 splits of the reference: a model that is calibrated already is left alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SPLITS = 10
_ERROR_BINS = 10
_TEST_SHARE = 0.1
_ROWS_MIN = 50


@dataclass(frozen=True)
class Calibration:
    """A non-decreasing map of scores, linear between knots and flat outside.

    Attributes:
        scores: Knots, increasing, shape (knots,).
        chances: Chance of the positive outcome at each knot, shape (knots,).
        identity: The scores are taken as they are.
    """

    scores: Floats
    chances: Floats
    identity: bool

    def apply(self, score: Floats) -> Floats:
        """Return the chance of the positive outcome for each score, shape (rows,), in [0, 1]."""
        if self.identity:
            return np.clip(score, 0.0, 1.0)
        return np.interp(score, self.scores, self.chances)


AS_IS = Calibration(np.zeros(0), np.zeros(0), identity=True)


def calibrate(score: Floats, outcome: Floats) -> Calibration:
    """Learn the map, or decide that the scores are better left as they are.

    Args:
        score: Scores of the reference, shape (rows,), in [0, 1].
        outcome: Outcomes of the same rows, 0.0 or 1.0.
    """
    if len(score) < _ROWS_MIN or len(np.unique(outcome)) == 1:
        return AS_IS
    rng = np.random.default_rng(0)
    raw, mapped = 0.0, 0.0
    for _ in range(_SPLITS):
        test = _stratified(outcome, rng)
        fitted = isotonic(score[~test], outcome[~test])
        raw += calibration_error(np.clip(score[test], 0, 1), outcome[test])
        mapped += calibration_error(fitted.apply(score[test]), outcome[test])
    return isotonic(score, outcome) if mapped < raw else AS_IS


def isotonic(score: Floats, outcome: Floats) -> Calibration:
    """Fit the least-squares non-decreasing map of scores to outcomes.

    Source: Barlow, Bartholomew, Bremner, Brunk (1972), Statistical Inference under Order Restrictions.
    """
    knots, inverse, weights = np.unique(score, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=outcome) / weights
    blocks: list[tuple[float, float, int]] = []  # mean, weight, knots
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        block = (mean, float(weight), 1)
        while blocks and blocks[-1][0] >= block[0]:
            left = blocks.pop()
            total = left[1] + block[1]
            block = ((left[0] * left[1] + block[0] * block[1]) / total, total, left[2] + block[2])
        blocks.append(block)
    chances = np.repeat([b[0] for b in blocks], [b[2] for b in blocks])
    return Calibration(knots.astype(np.float64), chances, identity=False)


def calibration_error(chance: Floats, outcome: Floats) -> float:
    """Return the expected calibration error over ten equal-width bins, in [0, 1].

    Source: Naeini, Cooper, Hauskrecht (2015), AAAI, Obtaining Well Calibrated Probabilities.
    """
    bins = np.minimum((chance * _ERROR_BINS).astype(np.int64), _ERROR_BINS - 1)
    gap = np.bincount(bins, weights=chance - outcome, minlength=_ERROR_BINS)
    return float(np.abs(gap).sum() / len(chance))


def _stratified(outcome: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    test = np.zeros(len(outcome), dtype=np.bool_)
    for kind in np.unique(outcome):
        rows = rng.permutation(np.nonzero(outcome == kind)[0])
        test[rows[: max(1, round(len(rows) * _TEST_SHARE))]] = True
    return test
