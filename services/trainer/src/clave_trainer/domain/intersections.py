"""Groups of two protected attributes at once: alike by each attribute alone does not mean alike where they meet.

Every pair of declared attributes is crossed. Only intersections with enough rows are counted, the largest first, and
never more than a bound of each: attributes with many levels would otherwise give thousands of groups of a few rows.
Many comparisons find some difference by chance alone, so all of them share one error: each is taken at a confidence
that keeps the whole family at 95 % (Bonferroni).

Source: Dunn (1961), J. Am. Stat. Assoc. 56:52.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from clave_trainer.domain.arrays import Bools
from clave_trainer.domain.fairness import GroupFigures

PAIR = " x "
PAIRS_MAX = 10
GROUPS_MAX = 40
_FAMILY_ERROR = 0.05


@dataclass(frozen=True, slots=True)
class Crossing:
    """Two attributes crossed.

    Attributes:
        attributes: Their names, in the order of their declaration.
        levels: The two levels of each group, in the order of `figures`.
        figures: The groups with enough rows, the largest first.
        left_out: Groups that have too few rows, or are beyond the bound.
    """

    attributes: tuple[str, str]
    levels: tuple[tuple[str, str], ...]
    figures: tuple[GroupFigures, ...]
    left_out: int

    @property
    def comparisons(self) -> int:
        """Count what is compared: every further group with the largest."""
        return max(0, len(self.figures) - 1)


def crossings(
    attributes: Mapping[str, Sequence[str]], outcomes: Bools, selected: Bools, *, rows_min: int
) -> list[Crossing]:
    """Cross every pair of attributes, at most `PAIRS_MAX` of them in the order of declaration.

    Args:
        attributes: Value of each row by attribute, shape (n,) each.
        outcomes: True for a positive row, shape (n,).
        selected: True where the model's label is positive, shape (n,).
        rows_min: Rows below which an intersection is not counted, at least 1.
    """
    codes = {
        name: np.unique(np.array(values, dtype=np.str_), return_inverse=True) for name, values in attributes.items()
    }
    pairs = list(combinations(codes, 2))[:PAIRS_MAX]
    return [_cross((a, b), codes[a], codes[b], outcomes, selected, rows_min) for a, b in pairs]


def family_confidence(found: Sequence[Crossing]) -> float:
    """Give the confidence at which each comparison is taken so that all together keep 95 %."""
    return 1 - _FAMILY_ERROR / max(1, sum(each.comparisons for each in found))


def _cross(
    names: tuple[str, str],
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    outcomes: Bools,
    selected: Bools,
    rows_min: int,
) -> Crossing:
    width = len(second[0])
    cells, member = np.unique(first[1] * width + second[1], return_inverse=True)
    masks = (np.ones_like(outcomes), outcomes, selected, outcomes & selected)
    rows, positives, chosen, hits = (np.bincount(member, weights=mask, minlength=len(cells)) for mask in masks)
    order = sorted(np.flatnonzero(rows >= rows_min), key=lambda cell: (-rows[cell], cells[cell]))[:GROUPS_MAX]
    levels = [(str(first[0][cells[cell] // width]), str(second[0][cells[cell] % width])) for cell in order]
    figures = [
        GroupFigures(
            ", ".join(f"{name} = {value}" for name, value in zip(names, pair, strict=True)),
            rows=int(rows[cell]),
            positives=int(positives[cell]),
            selected=int(chosen[cell]),
            true_positives=int(hits[cell]),
        )
        for cell, pair in zip(order, levels, strict=True)
    ]
    return Crossing(names, tuple(levels), tuple(figures), len(cells) - len(order))
