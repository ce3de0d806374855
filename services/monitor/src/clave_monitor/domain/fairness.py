"""Fairness per group: selection rate, true and false positive rate, with intervals instead of points.

Rules: a group counts with at least `group_rows_min` rows; the gap of a metric is the widest difference
between counting groups; the demographic parity ratio fails when the whole of its 95 % interval lies below the
limit, passes when the whole lies above, and is for a person to review in between. Definitions follow
fairlearn's.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from clave_monitor.domain.scores import Scored

_Z = 1.959963984540054
_PARITY_LIMIT = 0.8
_GROUPS_MAX = 20
_PAIR = 2


class FairnessVerdict(StrEnum):
    """What the interval of the parity ratio says."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    REVIEW = "review"
    NO_DATA = "no_data"


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % Wilson interval; `rows` is its denominator."""

    value: float
    lower: float
    upper: float
    rows: int


@dataclass(frozen=True)
class Group:
    """One group of a protected attribute; a rate is None where its denominator is empty."""

    name: str
    rows: int
    selection_rate: Rate | None
    true_positive_rate: Rate | None
    false_positive_rate: Rate | None


@dataclass(frozen=True)
class AttributeFairness:
    """One protected attribute.

    Attributes:
        gaps: Widest difference between counting groups per metric, in [0, 1].
        parity_ratio: Lowest selection rate over the highest, with its 95 % interval.
    """

    attribute: str
    groups: tuple[Group, ...]
    gaps: dict[str, float]
    parity_ratio: Rate | None
    verdict: FairnessVerdict


def attribute_fairness(
    attribute: str, groups: NDArray[np.str_], scored: Scored, *, group_rows_min: int
) -> AttributeFairness:
    """Compare the groups of one protected attribute.

    Args:
        attribute: Its name.
        groups: Group of each row, shape (rows,); an empty text is "unknown" and left out.
        scored: Scores with outcomes of the same rows.
        group_rows_min: Rows below which a group is shown and not compared.
    """
    names, sizes = np.unique(groups[groups != ""], return_counts=True)
    largest = sorted(zip(-sizes, names, strict=True))[:_GROUPS_MAX]
    found = tuple(sorted((_group(str(n), groups == n, scored) for _, n in largest), key=lambda g: g.name))
    counting = [group for group in found if group.rows >= group_rows_min]
    ratio = _parity_ratio(counting)
    return AttributeFairness(attribute, found, _gaps(counting), ratio, _verdict(ratio))


def _group(name: str, member: NDArray[np.bool_], scored: Scored) -> Group:
    predicted, positive = scored.predicted[member], scored.outcome[member] > 0
    return Group(
        name=name,
        rows=int(member.sum()),
        selection_rate=wilson(int(predicted.sum()), len(predicted)),
        true_positive_rate=wilson(int((predicted & positive).sum()), int(positive.sum())),
        false_positive_rate=wilson(int((predicted & ~positive).sum()), int((~positive).sum())),
    )


def wilson(hits: int, rows: int) -> Rate | None:
    """Return a share with its 95 % interval, or None of nothing.

    Source: Wilson (1927), JASA 22(158), 209-212.
    """
    if rows == 0:
        return None
    share, z2 = hits / rows, _Z**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _Z / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return Rate(share, max(0.0, middle - half), min(1.0, middle + half), rows)


def _gaps(groups: list[Group]) -> dict[str, float]:
    gaps = {}
    for metric in ("selection_rate", "true_positive_rate", "false_positive_rate"):
        rates = [rate.value for group in groups if (rate := getattr(group, metric)) is not None]
        if len(rates) >= _PAIR:
            gaps[metric] = max(rates) - min(rates)
    return gaps


def _parity_ratio(groups: list[Group]) -> Rate | None:
    """Return the ratio with Katz's log interval (Biometrics 34 (1978) 469-474), 0.5 added to an empty cell."""
    rates = [group.selection_rate for group in groups if group.selection_rate is not None]
    if len(rates) < _PAIR:
        return None
    low, high = min(rates, key=lambda r: r.value), max(rates, key=lambda r: r.value)
    a, n, b, m = low.value * low.rows, float(low.rows), high.value * high.rows, float(high.rows)
    if min(a, b, n - a, m - b) == 0:
        a, n, b, m = a + 0.5, n + 1, b + 0.5, m + 1
    ratio = (a / n) / (b / m)
    half = _Z * math.sqrt((1 - a / n) / a + (1 - b / m) / b)
    return Rate(ratio, ratio * math.exp(-half), ratio * math.exp(half), low.rows + high.rows)


def _verdict(ratio: Rate | None) -> FairnessVerdict:
    if ratio is None:
        return FairnessVerdict.NO_DATA
    if ratio.upper < _PARITY_LIMIT:
        return FairnessVerdict.FAIL
    return FairnessVerdict.PASS if ratio.lower >= _PARITY_LIMIT else FairnessVerdict.REVIEW
