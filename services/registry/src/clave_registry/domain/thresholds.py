"""Limits that a rollout's plan sets on what the challenger may do, beside the monitor's own sequential tests.

A limit compares figures, not distributions: it is judged only once the challenger answered `Thresholds.rows_min` rows,
so that one slow request of three does not end a rollout. Whatever is over its limit turns the verdict into a failure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from clave_registry.domain.rollout import Analysis, Verdict


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits on the challenger; None = none.

    Attributes:
        rows_min: Rows of the challenger before which nothing is judged.
        error_rate_max: Share of its requests that failed, 0 to 1.
        latency_ms_p99_max: Milliseconds.
        latency_ratio_max: Its p99 over the champion's.
        loss_increase_max: Its mean loss less the champion's, in the loss's own unit.
        score_shift_max: Its mean score less the champion's, either way.
    """

    rows_min: int = 100
    error_rate_max: float | None = None
    latency_ms_p99_max: float | None = None
    latency_ratio_max: float | None = None
    loss_increase_max: float | None = None
    score_shift_max: float | None = None


def judged(analysis: Analysis, figures: Mapping[str, Any], thresholds: Thresholds) -> Analysis:
    """Turn an analysis into a failing one where a figure is over its limit.

    Args:
        analysis: What the monitor says.
        figures: Its figures: ``challenger`` and ``champion`` (or None), each with rows, errors, latencies, loss, score.
        thresholds: The plan's limits.
    """
    challenger: Mapping[str, Any] = figures.get("challenger") or {}
    champion: Mapping[str, Any] = figures.get("champion") or {}
    rows = challenger.get("rows") or 0
    if rows < max(1, thresholds.rows_min):
        return analysis
    measured = {
        "error rate": (challenger.get("errors", 0) / rows, thresholds.error_rate_max),
        "p99 latency in ms": (challenger.get("latency_ms_p99"), thresholds.latency_ms_p99_max),
        "p99 latency over the champion's": (_ratio(challenger, champion), thresholds.latency_ratio_max),
        "mean loss over the champion's": (_difference(challenger, champion, "loss_mean"), thresholds.loss_increase_max),
        "shift of the mean score": (_shift(challenger, champion), thresholds.score_shift_max),
    }
    over = tuple(
        f"{name} is {value:.4g}, over the plan's limit {limit:.4g}"
        for name, (value, limit) in measured.items()
        if value is not None and limit is not None and value > limit
    )
    return replace(analysis, verdict=Verdict.FAIL, reasons=(*over, *analysis.reasons)) if over else analysis


def _difference(challenger: Mapping[str, Any], champion: Mapping[str, Any], name: str) -> float | None:
    ours, theirs = challenger.get(name), champion.get(name)
    return None if ours is None or theirs is None else float(ours - theirs)


def _shift(challenger: Mapping[str, Any], champion: Mapping[str, Any]) -> float | None:
    found = _difference(challenger, champion, "score_mean")
    return None if found is None else abs(found)


def _ratio(challenger: Mapping[str, Any], champion: Mapping[str, Any]) -> float | None:
    ours, theirs = challenger.get("latency_ms_p99"), champion.get("latency_ms_p99")
    return None if ours is None or not theirs else float(ours / theirs)
