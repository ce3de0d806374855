"""Gated drift: evidence AND a relevant effect, per scope of a model version.

Rules:
* One look per closed window. Each column gives an e-value; a scope's e-value is their mean, valid under any
  dependence between columns; the e-SR recursion accumulates it over windows.
* A column without finite values in the window gives the e-value 1: no data is no evidence.
* The effect's lower bound is taken over horizons of several lengths; the family's error `alpha` is
  shared by columns and horizons.
* Evidence alone is `watch`: shown and logged, no ticket. Evidence and a bound above `effect_relevant` is
  `drift`. Small windows lack the first, trivial differences the second.
* Columns are named by Benjamini-Hochberg on the window's p-values, after the alarm only.

What it leaves to others: missing values (`quality`), harm (`performance`), what to do (`retraining`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from clave_monitor.domain.counters import Binning, Column, Counts, Scope, Sketch, finite_bins
from clave_monitor.domain.evidence import (
    Evidence,
    benjamini_hochberg,
    binned_distance,
    distance_p_value,
    e_value,
    effect_radius,
    levels_p_value,
    population_stability_index,
)

_NAMING_ALPHA = 0.05


class DriftState(StrEnum):
    """What is known about a scope."""

    NO_DATA = "no_data"
    STABLE = "stable"
    WATCH = "watch"
    DRIFT = "drift"


@dataclass(frozen=True)
class DriftPolicy:
    """When a difference counts.

    Attributes:
        run_length_windows: Average number of windows between false alarms of evidence, at least; 1 / alpha.
        effect_relevant: Distance (KS, in [0, 1]) below which a difference is trivial.
        horizons: Numbers of latest windows over which the effect is bounded.
    """

    run_length_windows: float = 1000.0
    effect_relevant: float = 0.05
    horizons: tuple[int, ...] = (1, 3, 10, 30, 100)

    @property
    def alpha(self) -> float:
        """Error of all effect bounds of one look together."""
        return 1.0 / self.run_length_windows


@dataclass(frozen=True)
class ColumnDrift:
    """One column in one look; distances in [0, 1], None where there was no finite value.

    Attributes:
        lower_bound: Greatest lower confidence bound on the true distance over the horizons, at least 0.
        horizon: Windows of the horizon that gave the bound.
        named: Benjamini-Hochberg names the column as changed in this window.
    """

    name: str
    scope: Scope
    rows: int
    distance: float | None
    p_value: float | None
    psi: float | None
    lower_bound: float
    horizon: int
    named: bool = False


@dataclass(frozen=True)
class ScopeDrift:
    """One scope after a look."""

    scope: Scope
    state: DriftState
    evidence: Evidence
    e_value: float
    effect_lower_bound: float
    columns: tuple[ColumnDrift, ...]

    @property
    def gated(self) -> bool:
        """Evidence and relevance."""
        return self.state is DriftState.DRIFT

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that changed or whose effect is relevant, strongest bound first."""
        guilty = [column for column in self.columns if column.named]
        return tuple(c.name for c in sorted(guilty, key=lambda c: (-c.lower_bound, -(c.distance or 0.0))))


def look(
    sketch: Sketch,
    windows: Sequence[Counts],
    *,
    scope: Scope,
    evidence: Evidence,
    policy: DriftPolicy,
) -> ScopeDrift:
    """Judge the latest closed window of a scope.

    Args:
        sketch: The reference.
        windows: Counters of the closed windows, oldest first, each of shape (columns, SLOTS); the last one is
            judged, the others serve the horizons.
        scope: Which columns to judge.
        evidence: What had been accumulated before this window.
        policy: When a difference counts.

    Returns:
        The scope's drift with the evidence after this window.
    """
    chosen = [i for i, column in enumerate(sketch.columns) if column.scope is scope]
    alpha = policy.alpha / max(1, len(chosen) * len(policy.horizons))
    sums = _horizon_sums(windows, policy.horizons)
    columns = [_judge(sketch, i, sums, alpha=alpha) for i in chosen]
    e_values = [1.0 if column.p_value is None else e_value(column.p_value) for column in columns]
    mean = float(np.mean(e_values)) if e_values else 1.0
    after = evidence.add(mean, threshold=policy.run_length_windows)
    bound = max((column.lower_bound for column in columns), default=0.0)
    state = _state(after, bound, policy=policy, rows=sum(column.rows for column in columns))
    return ScopeDrift(scope, state, after, mean, bound, _name(columns, policy=policy, state=state))


def _state(evidence: Evidence, bound: float, *, policy: DriftPolicy, rows: int) -> DriftState:
    if not evidence.fired(policy.run_length_windows):
        return DriftState.STABLE if rows else DriftState.NO_DATA
    return DriftState.DRIFT if bound > policy.effect_relevant else DriftState.WATCH


def _horizon_sums(windows: Sequence[Counts], horizons: tuple[int, ...]) -> dict[int, Counts]:
    lengths = sorted({1, *(h for h in horizons if h <= len(windows))})
    return {length: np.sum(np.stack(list(windows[-length:])), axis=0) for length in lengths}


def _judge(sketch: Sketch, index: int, sums: dict[int, Counts], *, alpha: float) -> ColumnDrift:
    column = sketch.columns[index]
    reference = finite_bins(sketch.counts[index])
    current = finite_bins(sums[1][index])
    m, n = int(reference.sum()), int(current.sum())
    if m == 0 or n == 0:
        return ColumnDrift(column.name, column.scope, n, None, None, None, 0.0, 1)
    distance = binned_distance(reference, current)
    bounds = {length: _lower_bound(column, reference, sums[length][index], alpha=alpha) for length in sums}
    horizon = max(bounds, key=lambda length: (bounds[length], -length))
    return ColumnDrift(
        name=column.name,
        scope=column.scope,
        rows=n,
        distance=distance,
        p_value=_p_value(column, reference, current, distance=distance),
        psi=population_stability_index(reference, current),
        lower_bound=max(0.0, bounds[horizon]),
        horizon=horizon,
    )


def _p_value(column: Column, reference: Counts, current: Counts, *, distance: float) -> float:
    if column.binning is Binning.LEVELS:
        return levels_p_value(reference, current)
    return distance_p_value(distance, current_rows=int(current.sum()), reference_rows=int(reference.sum()))


def _lower_bound(column: Column, reference: Counts, current_slots: NDArray[np.int64], *, alpha: float) -> float:
    current = finite_bins(current_slots)
    n = int(current.sum())
    if n == 0:
        return 0.0
    tied = column.binning is Binning.TIED_QUANTILES
    radius = effect_radius(
        current_rows=n,
        reference_rows=int(reference.sum()),
        alpha=alpha,
        thresholds=None if tied else column.thresholds,
    )
    return binned_distance(reference, current) - radius


def _name(columns: list[ColumnDrift], *, policy: DriftPolicy, state: DriftState) -> tuple[ColumnDrift, ...]:
    if state not in (DriftState.WATCH, DriftState.DRIFT):
        return tuple(columns)
    p_values = np.array([1.0 if column.p_value is None else column.p_value for column in columns])
    rejected = set(benjamini_hochberg(p_values, _NAMING_ALPHA))
    return tuple(
        ColumnDrift(
            **{
                **column.__dict__,
                "named": i in rejected or column.lower_bound > policy.effect_relevant,
            }
        )
        for i, column in enumerate(columns)
    )
