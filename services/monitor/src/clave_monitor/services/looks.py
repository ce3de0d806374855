"""What an evaluation computes from rows: a window's look and the performance from labels. No I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from clave_contracts.monitor import RetrainingPolicy as PolicyBody
from numpy.typing import NDArray

from clave_monitor.domain.counters import Counts, Scope, missing
from clave_monitor.domain.drift import ColumnDrift, ScopeDrift, look
from clave_monitor.domain.evidence import e_value
from clave_monitor.domain.fairness import Rate, attribute_fairness
from clave_monitor.domain.performance import Estimate, Harm, estimate
from clave_monitor.domain.quality import Violation, violations
from clave_monitor.domain.scores import losses, metrics
from clave_monitor.runtime.references import Reference
from clave_monitor.services.policies import drift_policy, performance_policy, quality_policy
from clave_monitor.services.rows import groups, is_scored, scored
from clave_monitor.services.state import MonitorState, ScopeState
from clave_monitor.storage.predictions import ScoredRow

_GROUP_ROWS_MIN = 100


@dataclass(frozen=True)
class WindowLook:
    """A closed window judged."""

    state: MonitorState
    scopes: dict[Scope, ScopeDrift]
    violations: tuple[Violation, ...]
    features: list[dict[str, Any]]
    newly_fired: tuple[Scope, ...]
    newly_gated: tuple[Scope, ...]


def judge_window(
    reference: Reference,
    history: Sequence[Counts],
    state: MonitorState,
    *,
    policy: PolicyBody,
    first_at: datetime,
) -> WindowLook:
    """Judge the last of a monitor's windows.

    Args:
        reference: What the version is monitored against.
        history: Counters of closed windows, oldest first; the last is judged.
        state: Before the window.
        policy: The endpoint's.
        first_at: When the window's first prediction was made.
    """
    limits = drift_policy(policy)
    found: dict[Scope, ScopeDrift] = {}
    after: dict[Scope, ScopeState] = {}
    for scope in Scope:
        before = state.scopes[scope]
        drift = look(reference.sketch, history, scope=scope, evidence=before.evidence, policy=limits)
        growing = drift.evidence.level > 1.0 or drift.evidence.fired(limits.run_length_windows)
        since = (before.since or first_at) if growing else None
        found[scope] = drift
        after[scope] = ScopeState(drift.evidence, drift.state, drift.effect_lower_bound, since)
    broken = violations(reference.sketch, history[-1], quality_policy(policy))
    threshold = limits.run_length_windows
    return WindowLook(
        state=replace(state, scopes=after, quality_broken=bool(broken)),
        scopes=found,
        violations=broken,
        features=_features(reference, history[-1], found),
        newly_fired=tuple(
            s for s in Scope if after[s].evidence.fired(threshold) > state.scopes[s].evidence.fired(threshold)
        ),
        newly_gated=tuple(s for s in Scope if found[s].gated and state.scopes[s].state != found[s].state),
    )


def _features(reference: Reference, window: Counts, scopes: dict[Scope, ScopeDrift]) -> list[dict[str, Any]]:
    columns = {column.name: column for drift in scopes.values() for column in drift.columns}
    old, new = reference.sketch.counts, window
    described = []
    for i, column in enumerate(reference.sketch.columns):
        described.append(
            _feature(
                columns[column.name],
                kind=_kind(reference, column.name, column.scope),
                missing_share=_share(missing(new[i]), new[i]),
                reference_missing_share=_share(missing(old[i]), old[i]),
            )
        )
    return described


def _feature(drift: ColumnDrift, **described: Any) -> dict[str, Any]:
    p = 1.0 if drift.p_value is None else drift.p_value
    return {
        "feature": drift.name,
        "effect": drift.distance or 0.0,
        "effect_low": drift.lower_bound,
        "horizon_windows": drift.horizon,
        "p_value": p,
        "e_value": 1.0 if drift.p_value is None else e_value(p),
        "psi": drift.psi or 0.0,
        "drifted": drift.named,
        "rows": drift.rows,
        **described,
    }


def _kind(reference: Reference, name: str, scope: Scope) -> str:
    if scope is Scope.PREDICTION:
        return "score"
    return "categorical" if name in reference.categorical else "numeric"


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> float:
    return float(part) / max(1, int(whole.sum()))


@dataclass(frozen=True)
class LabelLook:
    """New labels judged."""

    state: MonitorState
    newly_harmed: bool


def judge_labels(
    reference: Reference, rows: Sequence[ScoredRow], state: MonitorState, *, policy: PolicyBody
) -> LabelLook:
    """Add new labels to the evidence of harm.

    Args:
        reference: Its baseline says which loss is accepted.
        rows: Labelled predictions that no recursion has seen, in the order of their labels.
        state: Before them.
        policy: The endpoint's.
    """
    usable = [row for row in rows if is_scored(row)]
    if reference.baseline is None or not usable:
        return LabelLook(state, newly_harmed=False)
    limits = performance_policy(policy)
    before = state.harm
    after = before.add(
        losses(scored(usable, reference.threshold)),
        reference.baseline.accepted(limits),
        threshold=limits.run_length_labels,
    )
    growing = _mean(after) > 1.0 or after.proven(limits.run_length_labels)
    since = (state.harm_since or min(row.at for row in usable)) if growing else None
    proven = after.proven(limits.run_length_labels)
    newly = proven and not before.proven(limits.run_length_labels)
    return LabelLook(replace(state, harm=after, harm_since=since), newly_harmed=newly)


def _mean(harm: Harm) -> float:
    return sum(harm.levels) / len(harm.levels) if harm.levels else 0.0


def estimated(reference: Reference, scores: NDArray[np.float64], policy: PolicyBody) -> Estimate | None:
    """Estimate the performance on the latest scores, None where it cannot be estimated."""
    if reference.baseline is None:
        return None
    return estimate(reference.baseline, scores, performance_policy(policy))


def performance_figures(reference: Reference, guess: Estimate | None, labelled: Sequence[ScoredRow]) -> dict[str, Any]:
    """Describe estimated and realised performance on the latest rows.

    Args:
        reference: What the version is compared with.
        guess: The estimate, if there is one.
        labelled: The latest labelled predictions.
    """
    figures: dict[str, Any] = {
        "estimated": {},
        "estimated_band": {},
        "estimate_rows": 0,
        "estimate_dropped": [],
        "reference": dict(reference.baseline.metrics) if reference.baseline else {},
        "realised": metrics(scored(labelled, reference.threshold)),
        "realised_rows": sum(is_scored(row) for row in labelled),
    }
    if guess is not None:
        band = {
            name: [guess.metrics[name] - 3 * error, guess.metrics[name] + 3 * error]
            for name, error in guess.standard_errors.items()
            if name in guess.metrics and math.isfinite(error)
        }
        figures |= {
            "estimated": guess.metrics,
            "estimated_band": band,
            "estimate_rows": guess.rows,
            "estimate_dropped": list(guess.dropped),
        }
    return figures


def fairness_figures(reference: Reference, labelled: Sequence[ScoredRow]) -> dict[str, Any]:
    """Compare the groups of each protected attribute on the latest labelled rows, beside the reference."""
    usable = [row for row in labelled if is_scored(row)]
    names = {name for row in usable for name in (row.attributes or {})} | set(reference.protected)
    rows = scored(usable, reference.threshold)
    return {
        name: attribute_figures(name, groups(usable, name), rows) | {"reference": _reference_fairness(reference, name)}
        for name in sorted(names)
    }


def _reference_fairness(reference: Reference, name: str) -> dict[str, Any] | None:
    if reference.scored is None or name not in reference.protected:
        return None
    return attribute_figures(name, reference.protected[name], reference.scored)


def attribute_figures(name: str, members: NDArray[np.str_], rows: Any) -> dict[str, Any]:
    """Describe one attribute's fairness as JSON-able values."""
    found = attribute_fairness(name, members, rows, group_rows_min=_GROUP_ROWS_MIN)
    return {
        "verdict": found.verdict.value,
        "gaps": found.gaps,
        "parity_ratio": _rate(found.parity_ratio),
        "group_rows_min": _GROUP_ROWS_MIN,
        "groups": [
            {
                "group": group.name,
                "rows": group.rows,
                "selection_rate": _rate(group.selection_rate),
                "true_positive_rate": _rate(group.true_positive_rate),
                "false_positive_rate": _rate(group.false_positive_rate),
            }
            for group in found.groups
        ],
    }


def _rate(rate: Rate | None) -> dict[str, float] | None:
    if rate is None:
        return None
    return {"value": rate.value, "low": rate.lower, "high": rate.upper, "n": rate.rows}
