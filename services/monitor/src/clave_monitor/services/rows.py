"""From stored prediction rows to the arrays that the rules take."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clave_monitor.domain.scores import Scored
from clave_monitor.runtime.references import group_names
from clave_monitor.storage.predictions import ScoredRow

Floats = NDArray[np.float64]


def feature_table(rows: Sequence[ScoredRow]) -> dict[str, Floats]:
    """Arrange features and score by column.

    Args:
        rows: Predictions, possibly of differing column lists.

    Returns:
        Values per column name, each of shape (len(rows),); NaN where a row lacks the column.
    """
    table: dict[str, Floats] = {}
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.columns, []).append(i)
    for columns, members in groups.items():
        values = np.stack([np.frombuffer(rows[i].features, dtype="<f4") for i in members]).astype(np.float64)
        for position, name in enumerate(columns):
            table.setdefault(name, np.full(len(rows), np.nan))[members] = values[:, position]
    score = np.array([math.nan if row.score is None else row.score for row in rows])
    return table | {"score": score.astype(np.float32).astype(np.float64)}


def scored(rows: Sequence[ScoredRow], threshold: float) -> Scored:
    """Give the rows that carry a score and a class as outcome."""
    usable = [row for row in rows if is_scored(row)]
    return Scored(
        np.array([row.score for row in usable], dtype=np.float64),
        np.array([row.outcome for row in usable], dtype=np.float64),
        threshold,
    )


def is_scored(row: ScoredRow) -> bool:
    """Say whether a row can be judged: a finite score and an outcome of 0 or 1."""
    return row.score is not None and math.isfinite(row.score) and row.outcome in (0.0, 1.0)


def groups(rows: Sequence[ScoredRow], attribute: str) -> NDArray[np.str_]:
    """Give the group of each row, the empty text where it is unknown, shape (len(rows),)."""
    return group_names([(row.attributes or {}).get(attribute) for row in rows])
