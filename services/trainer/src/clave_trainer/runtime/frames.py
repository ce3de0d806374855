"""A training set in memory: the Parquet snapshot as arrays by the role of each column."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from clave_common.errors import FailedPrecondition

from clave_trainer.domain.arrays import Bools, Floats, Ints, Rows

_KEY_JOINT = "\x1f"


class TrainingSetMalformed(FailedPrecondition):
    """The snapshot lacks a column that it announces, or a column cannot be read as what it should be."""

    code = "training_set_malformed"


@dataclass(frozen=True)
class Frame:
    """A training set.

    Attributes:
        keys: Entity key of each row, shape (n,).
        at: Event time of each row in microseconds, shape (n,).
        features: Names of the model's inputs, in order.
        rows: Their values, shape (n, features), NaN where missing.
        label: Outcome of each row, shape (n,), NaN where missing.
        extras: Protected attributes by name, as text, shape (n,) each.
        levels: Levels of categorical inputs, in the order of their codes.
    """

    keys: list[str]
    at: Ints
    features: list[str]
    rows: Rows
    label: Floats
    extras: dict[str, list[str]]
    levels: dict[str, list[str]]

    @property
    def outcomes(self) -> Bools:
        """True where the outcome was positive."""
        positive: Bools = self.label > 0.5  # noqa: PLR2004 - binary outcomes are 0 and 1
        return positive

    def take(self, mask: Bools) -> "Frame":
        """Keep the rows of a mask."""
        index = np.flatnonzero(mask)
        return Frame(
            keys=[self.keys[row] for row in index],
            at=self.at[index],
            features=self.features,
            rows=self.rows[index],
            label=self.label[index],
            extras={name: [values[row] for row in index] for name, values in self.extras.items()},
            levels=self.levels,
        )

    def columns(self, names: list[str]) -> Rows | None:
        """Pick input columns by name in another order; None when one is missing."""
        if not set(names) <= set(self.features):
            return None
        return np.ascontiguousarray(self.rows[:, [self.features.index(name) for name in names]])


def read_frame(path: Path, columns: list[dict[str, Any]]) -> Frame:
    """Read a snapshot.

    Args:
        path: The Parquet file.
        columns: Its columns with ``name``, ``role`` and, for categories, ``levels``.

    Raises:
        TrainingSetMalformed: Names the column.
    """
    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise TrainingSetMalformed(f"The training set is no readable Parquet file ({error}).") from error
    roles: dict[str, list[dict[str, Any]]] = {}
    for column in columns:
        if column["name"] not in table.column_names:
            raise TrainingSetMalformed(f"Column {column['name']!r} is announced and missing.", column=column["name"])
        roles.setdefault(column["role"], []).append(column)
    for role in ("entity", "timestamp", "feature", "label"):
        if role not in roles:
            raise TrainingSetMalformed(f"The training set has no {role} column.", role=role)
    features = roles["feature"]
    levels = {column["name"]: column["levels"] for column in features if column.get("levels")}
    values = [_numbers(table, column["name"], column.get("levels")) for column in features]
    return Frame(
        keys=_keys(table, [column["name"] for column in roles["entity"]]),
        at=_moments(table, roles["timestamp"][0]["name"]),
        features=[column["name"] for column in features],
        rows=np.ascontiguousarray(np.stack(values, axis=1), dtype=np.float32),
        label=_numbers(table, roles["label"][0]["name"], None).astype(np.float64),
        extras={_attribute(column): _texts(table, column["name"]) for column in roles.get("extra", [])},
        levels=levels,
    )


def _attribute(column: dict[str, Any]) -> str:
    """Name a protected attribute as feedback and cards do: without its view."""
    return str(column["name"]).removeprefix(f"{column.get('view')}__")


def _numbers(table: pa.Table, name: str, levels: list[str] | None) -> Floats:
    column = table.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        if levels is None:
            raise TrainingSetMalformed(
                f"Column {name!r} holds text without levels; declare it as a category.", column=name
            )
        column = pc.index_in(column, value_set=pa.array(levels, type=column.type))
    try:
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TrainingSetMalformed(f"Column {name!r} of type {column.type} is no number.", column=name) from error
    return np.asarray(values, dtype=np.float64)


def _texts(table: pa.Table, name: str) -> list[str]:
    values = table.column(name).to_pylist()
    return ["" if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in values]


def _keys(table: pa.Table, names: list[str]) -> list[str]:
    columns = [_texts(table, name) for name in names]
    return [_KEY_JOINT.join(parts) for parts in zip(*columns, strict=True)]


def _moments(table: pa.Table, name: str) -> Ints:
    column = table.column(name)
    if not pa.types.is_timestamp(column.type):
        raise TrainingSetMalformed(f"Column {name!r} is no timestamp.", column=name)
    micros = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64())
    return np.asarray(micros.to_numpy(), dtype=np.int64)
