"""Evidence and effect: has a column changed, and by how much at least.

Two questions, two statistics:
* evidence is a p-value per window, turned into an e-value, so that it may be averaged over columns of
  any dependence and accumulated over windows with a stated average run length between false alarms;
* effect is a lower confidence bound on the distance itself.

PSI is computed because people ask for it. It decides nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clave_monitor.domain.tails import chi_square_tail, kolmogorov_tail

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

_LEVEL_MAX = 1e300
_EXPECTED_MIN = 5.0
_PAIR = 2
_PSI_GROUPS = 10
_PSI_FLOOR = 1e-4


def binned_distance(reference: Counts, current: Counts) -> float:
    """Return the Kolmogorov-Smirnov distance seen through bins, in [0, 1].

    It never exceeds the distance of the rows themselves: p-values made from it are conservative and
    lower bounds stay valid.

    Args:
        reference: Counts per bin, shape (bins,), sum at least 1.
        current: Counts over the same bins, sum at least 1.
    """
    gap = np.cumsum(current / current.sum() - reference / reference.sum())
    return min(1.0, float(np.abs(gap).max()))


def distance_p_value(distance: float, *, current_rows: int, reference_rows: int) -> float:
    """Return the asymptotic two-sample KS p-value with Stephens' small-sample correction."""
    root = math.sqrt(current_rows * reference_rows / (current_rows + reference_rows))
    return float(kolmogorov_tail(np.array((root + 0.12 + 0.11 / root) * distance)))


def levels_p_value(reference: Counts, current: Counts) -> float:
    """Return the two-sample chi-square p-value of level counts, rare levels merged.

    Levels whose expected count is below 5 in either sample are poured together, and the result into the
    rarest other level if it is still too small; two levels get Yates' correction.

    Args:
        reference: Counts per level, shape (levels,).
        current: Counts of the same levels.
    """
    table = _merge_rare(np.stack([reference, current]).astype(np.float64))
    if table.shape[1] < _PAIR:
        return 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    difference = np.abs(table - expected)
    if table.shape[1] == _PAIR:
        difference = np.maximum(difference - 0.5, 0.0)
    return chi_square_tail(float((difference**2 / expected).sum()), table.shape[1] - 1)


def _merge_rare(table: Floats) -> Floats:
    table = table[:, table.sum(axis=0) > 0]
    smaller_share = table.sum(axis=1).min() / max(table.sum(), 1.0)
    order = np.argsort(table.sum(axis=0), kind="stable")
    table = table[:, order]
    while table.shape[1] > 1 and table[:, 0].sum() * smaller_share < _EXPECTED_MIN:
        table = np.concatenate([table[:, :1] + table[:, 1:2], table[:, 2:]], axis=1)
        table = table[:, np.argsort(table.sum(axis=0), kind="stable")]
    return table


def rate_p_value(*, reference: int, reference_rows: int, current: int, current_rows: int) -> float:
    """Return the p-value of two rates being equal: chi-square on the 2 x 2 table, uncorrected.

    Args:
        reference: Rows of the reference that show the trait.
        reference_rows: Rows of the reference.
        current: Rows of the window that show the trait.
        current_rows: Rows of the window.
    """
    with_trait, rows = reference + current, reference_rows + current_rows
    if min(reference_rows, current_rows) == 0 or with_trait in (0, rows):
        return 1.0
    cross = reference * (current_rows - current) - current * (reference_rows - reference)
    statistic = rows * cross**2 / (with_trait * (rows - with_trait) * reference_rows * current_rows)
    return chi_square_tail(statistic, 1)


def e_value(p: float) -> float:
    """Turn a p-value into an e-value: (1 - p + p ln p) / (p ln^2 p).

    It is the uniform mixture over k in (0, 1) of k p^(k-1); its expectation is 1 under a uniform p.

    Source: Vovk, Wang (2021), E-values, Annals of Statistics 49(3), 1736-1754.
    """
    if p > 1 - 1e-4:  # the closed form cancels near 1, where it tends to 1/2 + (1 - p)/6
        return 0.5 + (1 - p) / 6
    p = max(p, 1e-300)
    log_p = math.log(p)
    return (1 - p + p * log_p) / (p * log_p * log_p)


@dataclass(frozen=True)
class Evidence:
    """Accumulated evidence of one scope: the e-SR recursion M <- (1 + M) E and its latch.

    M - t is a supermartingale while nothing changed, hence on average at least `threshold` updates pass
    between false alarms. The latch keeps the highest M since it was cleared: a person, a new reference or a
    new version clears it, otherwise a reader would see the reset and never the alarm.

    Attributes:
        level: M since the last alarm, at least 0.
        latched: The highest M since the latch was cleared, at least 0.
        updates: Number of e-values added since the latch was cleared.

    Source: Shin, Ramdas, Rinaldo (2024), E-detectors, NEJSDS 2(2).
    """

    level: float = 0.0
    latched: float = 0.0
    updates: int = 0

    def add(self, e: float, *, threshold: float) -> "Evidence":
        """Return the state after one more e-value; at the threshold the level starts again from zero."""
        level = min((1.0 + self.level) * e, _LEVEL_MAX)
        latched = max(self.latched, level)
        return Evidence(0.0 if level >= threshold else level, latched, self.updates + 1)

    def fired(self, threshold: float) -> bool:
        """Say whether the evidence has reached the threshold since the latch was cleared."""
        return self.latched >= threshold

    @property
    def log10(self) -> float:
        """The latched evidence as a power of ten; at least -3, so that "none" can be drawn."""
        return math.log10(max(self.latched, 1e-3))


def band_radius(rows: int, alpha: float) -> float:
    """Return r with P(sup |empirical - true distribution function| > r) <= alpha.

    Source: Massart (1990), Annals of Probability 18(3), 1269-1283.
    """
    return math.sqrt(math.log(2 / alpha) / (2 * rows))


def effect_radius(*, current_rows: int, reference_rows: int, alpha: float, thresholds: int | None) -> float:
    """Return by how much an observed distance may exceed the true one, with confidence 1 - alpha.

    Always valid is the sum of two DKW radii at alpha / 2. Where the distance is looked for at a known number
    of thresholds, a union of Hoeffding bounds on the difference of the two samples adds the errors in
    quadrature, which is the smaller one for small references. At a continuous reference's own order
    statistics that stays true up to 1 / reference_rows, because the share below the k-th of m order
    statistics is Beta(k, m - k + 1), which is sub-Gaussian with variance proxy below 1 / (4 m). Which of the
    two is used depends on the sizes only, never on the data.

    Args:
        current_rows: Rows of the window, at least 1.
        reference_rows: Rows of the reference, at least 1.
        alpha: Error per column and look, in (0, 1).
        thresholds: Places looked at; None where ties in the reference rule the second bound out.

    Sources: Massart (1990); Hoeffding (1963); Marchal, Arbel (2017), Electronic Communications in Probability 22, 54.
    """
    safe = band_radius(current_rows, alpha / 2) + band_radius(reference_rows, alpha / 2)
    if thresholds is None:
        return safe
    spread = 1 / current_rows + 1 / reference_rows
    return min(safe, math.sqrt(math.log(2 * thresholds / alpha) / 2 * spread) + 1 / reference_rows)


def benjamini_hochberg(p_values: Floats, alpha: float) -> list[int]:
    """Return the positions rejected at false discovery rate alpha, smallest p-value first.

    Source: Benjamini, Hochberg (1995), JRSS B 57(1), 289-300.
    """
    order = np.argsort(p_values, kind="stable")
    limits = alpha * np.arange(1, len(p_values) + 1) / max(len(p_values), 1)
    passed = np.nonzero(p_values[order] <= limits)[0]
    return [int(position) for position in order[: passed[-1] + 1]] if len(passed) else []


def population_stability_index(reference: Counts, current: Counts) -> float:
    """Measure how far the current shares moved from the reference's, over about ten groups of bins.

    Args:
        reference: Counts per bin, shape (bins,), sum at least 1.
        current: Counts over the same bins, sum at least 1.

    Returns:
        PSI in nats, at least 0; shares are floored at 0.0001.

    Source: Siddiqi (2017), Intelligent Credit Scoring, 2nd ed., p. 369.
    """
    share = np.concatenate([[0.0], np.cumsum(reference)[:-1]]) / reference.sum()
    group = np.minimum((share * _PSI_GROUPS + 1e-9).astype(np.int64), _PSI_GROUPS - 1)
    p = np.bincount(group, weights=reference, minlength=_PSI_GROUPS) / reference.sum()
    q = np.bincount(group, weights=current, minlength=_PSI_GROUPS) / current.sum()
    p, q = np.maximum(p, _PSI_FLOOR), np.maximum(q, _PSI_FLOOR)
    return float(np.sum((q - p) * np.log(q / p)))
