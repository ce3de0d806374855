"""Mergeable counters: how a column is binned once, by its reference, and counted for ever after.

Rules:
* A column with at most `LEVELS_MAX` distinct finite reference values is counted per level, the
  gaps between levels being bins of their own, so that a value never seen in the reference shows.
* Any other column is cut at the order statistics nearest to 63 equally spaced quantiles.
* Missing, +inf and -inf have slots of their own: they are data quality, not drift.
* Counters of the same sketch merge by addition; a horizon is a sum of windows.

Memory is `columns x 67 x 8` bytes a window, whatever the number of rows.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

BINS = 64
LEVELS_MAX = 20
SLOTS = BINS + 3
_MISSING, _POSITIVE_INFINITY, _NEGATIVE_INFINITY = BINS, BINS + 1, BINS + 2


class Scope(StrEnum):
    """What a column tells about."""

    INPUT = "input"
    PREDICTION = "prediction"


class Binning(StrEnum):
    """How a column was cut, which decides how sharp its effect bound may be."""

    LEVELS = "levels"
    QUANTILES = "quantiles"
    TIED_QUANTILES = "tied_quantiles"


@dataclass(frozen=True)
class Column:
    """One column's bins.

    Attributes:
        name: The column's name, unique in its sketch.
        scope: Input feature or prediction.
        binning: How the edges were found.
        edges: Inner edges, increasing, shape (<= 63,); bin i holds edges[i-1] <= x < edges[i].
        levels: How many bins are single levels, 0 unless `binning` is LEVELS.
    """

    name: str
    scope: Scope
    binning: Binning
    edges: Floats
    levels: int = 0

    @property
    def thresholds(self) -> int:
        """Number of places at which a distance is looked for, at least 1."""
        return max(1, len(self.edges))

    def count(self, values: Floats) -> Counts:
        """Count one column's values.

        Args:
            values: Shape (rows,), any floats; NaN means missing.

        Returns:
            Shape (SLOTS,).
        """
        counts = np.zeros(SLOTS, dtype=np.int64)
        finite = values[np.isfinite(values)]
        binned = np.bincount(np.searchsorted(self.edges, finite, side="right"), minlength=1)
        counts[: len(binned)] = binned
        counts[_MISSING] = np.isnan(values).sum()
        counts[_POSITIVE_INFINITY] = np.isposinf(values).sum()
        counts[_NEGATIVE_INFINITY] = np.isneginf(values).sum()
        return counts


@dataclass(frozen=True)
class Sketch:
    """The reference of a model version: bins and counts per column.

    Attributes:
        columns: The columns, features first.
        counts: Reference counts, shape (len(columns), SLOTS).
        rows: Reference rows.
    """

    columns: tuple[Column, ...]
    counts: Counts
    rows: int

    def count(self, table: dict[str, Floats], *, rows: int) -> Counts:
        """Count rows of a window with the reference's bins.

        Args:
            table: Values per column name, each of shape (rows,); an absent column counts as missing.
            rows: Number of rows.

        Returns:
            Shape (len(columns), SLOTS).
        """
        absent = np.full(rows, np.nan)
        return np.stack([column.count(table.get(column.name, absent)) for column in self.columns])


def empty_counts(columns: int) -> Counts:
    """Return counters that have seen nothing, shape (columns, SLOTS)."""
    return np.zeros((columns, SLOTS), dtype=np.int64)


def finite_bins(counts: Counts) -> Counts:
    """Return the part of the counters that holds finite values, shape (..., BINS)."""
    return counts[..., :BINS]


def missing(counts: Counts) -> Counts:
    """Return the missing values per column, shape (...,)."""
    return counts[..., _MISSING]


def infinite(counts: Counts) -> Counts:
    """Return the infinite values per column, shape (...,)."""
    return counts[..., _POSITIVE_INFINITY] + counts[..., _NEGATIVE_INFINITY]


def unseen(counts: Counts, column: Column) -> int:
    """Return how many finite values fell between or beyond the reference's levels."""
    if column.binning is not Binning.LEVELS:
        return 0
    gaps = finite_bins(counts)[0 : len(column.edges) + 1 : 2]
    return int(gaps.sum())


def sketch(features: dict[str, Floats], score: Floats | None) -> Sketch:
    """Build the reference sketch of a model version.

    Args:
        features: Values per feature, each of shape (rows,).
        score: The model's scores on the same rows, shape (rows,), or None when unknown.

    Returns:
        The sketch; the score's column is named `score`.
    """
    columns = [_column(name, Scope.INPUT, values) for name, values in features.items()]
    tables = list(features.values())
    if score is not None:
        columns.append(_column("score", Scope.PREDICTION, score))
        tables.append(score)
    rows = len(tables[0]) if tables else 0
    counts = [column.count(values) for column, values in zip(columns, tables, strict=True)]
    return Sketch(tuple(columns), np.stack(counts) if counts else empty_counts(0), rows)


def _column(name: str, scope: Scope, values: Floats) -> Column:
    finite = values[np.isfinite(values)]
    distinct = np.unique(finite)
    if len(distinct) <= LEVELS_MAX:
        edges = np.unique(np.concatenate([distinct, np.nextafter(distinct, np.inf)]))
        return Column(name, scope, Binning.LEVELS, edges, levels=len(distinct))
    grid = np.linspace(0, 1, BINS + 1)[1:-1]
    edges = np.unique(np.quantile(finite, grid, method="inverted_cdf"))
    tied = len(distinct) < len(finite)
    return Column(name, scope, Binning.TIED_QUANTILES if tied else Binning.QUANTILES, edges)
