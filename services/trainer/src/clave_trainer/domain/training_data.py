"""What a training set must be before a model may learn from it."""

from dataclasses import dataclass

import numpy as np

from clave_trainer.domain.arrays import Bools, Floats, Rows
from clave_trainer.domain.discrimination import TooFewOutcomes, place
from clave_trainer.domain.split import Deal

ROWS_MIN = 200
OUTCOMES_MIN = 20
MISSING_SHARE_MAX = 0.95
LEAK_AUC = 0.995


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was found.

    Attributes:
        faults: Reasons to refuse; empty when the data may be used.
        warnings: What a reader should know.
        facts: Counts and shares.
    """

    faults: list[str]
    warnings: list[str]
    facts: dict[str, float | int | dict[str, float]]


def inspect(rows: Rows, label: Floats, features: list[str], dealt: Deal) -> DataReport:
    """Look at a training set.

    Args:
        rows: Inputs, shape (n, features), NaN where missing.
        label: Outcomes, shape (n,).
        features: Names of the inputs.
        dealt: The split of the rows.

    Returns:
        Faults (too few rows or outcomes, outcomes other than 0 and 1, an input that is always missing, one that
        gives the outcome away), warnings (a constant input) and counts.
    """
    faults: list[str] = []
    known = label[~np.isnan(label)]
    if label.size < ROWS_MIN:
        faults.append(f"{label.size} rows; at least {ROWS_MIN} are needed")
    if known.size < label.size:
        faults.append(f"{label.size - known.size} rows have no outcome")
    if not np.isin(known, (0.0, 1.0)).all():
        faults.append("outcomes other than 0 and 1")
    for name, count in dealt.rows().items():
        part = label[getattr(dealt, name)]
        positive = int((part == 1).sum())
        if count and min(positive, count - positive) < OUTCOMES_MIN:
            faults.append(
                f"the {name} split has {positive} positive and {count - positive} negative rows; "
                f"{OUTCOMES_MIN} of each are needed"
            )
        elif not count:
            faults.append(f"the {name} split is empty")
    missing = {name: float(share) for name, share in zip(features, np.isnan(rows).mean(axis=0), strict=True)}
    faults += [
        f"{name} is missing in {share:.0%} of rows" for name, share in missing.items() if share > MISSING_SHARE_MAX
    ]
    if np.isinf(rows).any():
        faults.append("infinite values: " + ", ".join(_named(features, np.asarray(np.isinf(rows).any(axis=0)))))
    if not faults:
        faults += [f"{name} gives the outcome away (AUC {auc:.3f})" for name, auc in _leaks(rows, label, features)]
    warnings = [f"{name} has a single value" for name in _constant(rows, features)]
    facts: dict[str, float | int | dict[str, float]] = {
        "rows": int(label.size),
        "positive_rate": float(known.mean()) if known.size else 0.0,
        "missing_shares": {name: share for name, share in missing.items() if share > 0},
        "splits": {name: float(count) for name, count in dealt.rows().items()},
    }
    return DataReport(faults, warnings, facts)


def _named(features: list[str], mask: Bools) -> list[str]:
    return [name for name, hit in zip(features, mask, strict=True) if hit]


def _constant(rows: Rows, features: list[str]) -> list[str]:
    return [name for column, name in enumerate(features) if np.unique(rows[:, column]).size <= 1]


def _leaks(rows: Rows, label: Floats, features: list[str]) -> list[tuple[str, float]]:
    found = []
    for column, name in enumerate(features):
        values = rows[:, column].astype(np.float64)
        present = ~np.isnan(values)
        try:
            auc = place(label[present] == 1, values[present]).auc
        except TooFewOutcomes:
            continue
        if max(auc, 1 - auc) > LEAK_AUC:
            found.append((name, max(auc, 1 - auc)))
    return found
