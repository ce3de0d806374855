"""Builds the Parquet file of a training set: label rows joined with features as known at their time."""
# ruff: noqa: S608 - SQL is this module's product; names and literals are quoted by `domain.sql`.

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from clave_features.domain.definitions import Entity, Feature, FeatureRef, View
from clave_features.domain.dtypes import Dtype
from clave_features.domain.errors import NoLabels
from clave_features.domain.on_demand import computed
from clave_features.domain.point_in_time import JoinView, point_in_time_sql, shape_for
from clave_features.domain.sql import identifier, literal, text_list
from clave_features.runtime.engine import Engine
from clave_features.runtime.history import HistoryFile, history_relation, model_input_sql

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

LABEL_TIME: Final = "event_ts"
_ROWS_PER_BATCH: Final = 50_000


@dataclass(frozen=True, slots=True)
class Side:
    """One view of the join: its definition, its entity, its files."""

    view: View
    entity: Entity
    files: tuple[HistoryFile, ...]


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """Everything that decides a training set's content.

    Attributes:
        label: Name of the outcome in the label view.
        columns: Features and extra columns, in the order in which they come out.
        as_of: Labels after it are left out.
        label_after: Labels before it are left out; None for no bound.
    """

    labels: Side
    label: str
    sides: tuple[Side, ...]
    columns: tuple[FeatureRef, ...]
    as_of: datetime
    label_after: datetime | None
    as_known: bool

    def side(self, view: str) -> Side:
        """Give the side of a view."""
        return next(side for side in self.sides if side.view.name == view)

    def wanted(self, view: str) -> tuple[str, ...]:
        """Features of a view that come out."""
        return tuple(ref.feature for ref in self.columns if ref.view == view)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was built.

    Attributes:
        statuses: Per view, how many label rows found what.
    """

    rows: int
    statuses: dict[str, dict[str, int]]


def labels_sql(plan: SnapshotPlan, relation: str) -> str:
    """Write the spine: label rows of the time span, the newest version of each (keys, event_ts), in time order.

    A corrected outcome replaces the earlier one of the same keys and time; row numbers follow (event_ts, seq).
    """
    keys = [identifier(name) for name in plan.labels.entity.key_names]
    bounds = [f"event_ts <= {_time(plan.as_of)}", *(f"{key} IS NOT NULL" for key in keys)]
    if plan.label_after is not None:
        bounds.append(f"event_ts >= {_time(plan.label_after)}")
    label = identifier(plan.label)
    newest = f"PARTITION BY {text_list([*keys, 'event_ts'])} ORDER BY created_ts DESC NULLS LAST, seq DESC"
    inner = (
        f"SELECT {text_list(keys)}, event_ts, seq, {label} FROM {relation} "
        f"WHERE {text_list(bounds, ' AND ')} QUALIFY row_number() OVER ({newest}) = 1"
    )
    return (
        f"SELECT row_number() OVER (ORDER BY event_ts, seq) - 1 AS _row, {text_list(keys)}, event_ts, {label} "
        f"FROM ({inner}) WHERE {label} IS NOT NULL"
    )


def join_sql(plan: SnapshotPlan, relations: Mapping[str, str]) -> str:
    """Write the whole query over a table `labels`: the join, then each value as a model's double."""
    joins = [_join_view(side, plan, relations[side.view.name]) for side in plan.sides]
    keys = plan.labels.entity.key_names
    joined = point_in_time_sql(
        joins,
        labels="labels",
        label_columns=[*keys, LABEL_TIME, plan.label],
        time_column=LABEL_TIME,
        shape=shape_for(as_known=plan.as_known),
        as_known=plan.as_known,
    )
    shown = [identifier(name) for name in (*keys, LABEL_TIME)]
    label = plan.labels.view.feature(plan.label)
    shown.append(f"{_encoded(label, identifier(label.name))} AS {identifier(label.name)}")
    for side, join in zip(plan.sides, joins, strict=True):
        shown.append(identifier(join.status_column))
        for name in join.features:
            column = identifier(join.column(name))
            shown.append(f"{_encoded(side.view.feature(name), column)} AS {column}")
    return f"SELECT {text_list(shown)} FROM (\n{joined}\n) ORDER BY _row"


def _encoded(one: Feature, value: str) -> str:
    return model_input_sql(one, value) if one.dtype.is_model_input else value


def _join_view(side: Side, plan: SnapshotPlan, relation: str) -> JoinView:
    inputs = side.view.inputs_of(plan.wanted(side.view.name))
    keys = tuple((name, name) for name in side.entity.key_names)
    return JoinView(side.view.name, relation, keys, inputs, side.view.ttl_us)


def _time(at: datetime) -> str:
    return f"CAST({literal(at.isoformat())} AS TIMESTAMPTZ)"


def build(engine: Engine, plan: SnapshotPlan, target: Path) -> Snapshot:
    """Run the join and write the training set.

    Raises:
        NoLabels: There is no label row in the span.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - imported when first needed, see runtime.engine

    statuses = {side.view.name: Counter[str]() for side in plan.sides}
    rows = 0
    with engine.session() as connection:
        _make_labels(connection, plan)
        relations = {side.view.name: _relation(side, plan) for side in plan.sides}
        reader = connection.sql(join_sql(plan, relations)).to_arrow_reader(_ROWS_PER_BATCH)
        schema = arrow_schema(plan)
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for batch in reader:
                rows += batch.num_rows
                for name, counter in statuses.items():
                    counter.update(batch.column(f"{name}__status").to_pylist())
                writer.write_batch(_finished(batch, plan, schema))
    return Snapshot(rows, {name: dict(sorted(counter.items())) for name, counter in statuses.items()})


def _relation(side: Side, plan: SnapshotPlan) -> str:
    inputs = side.view.inputs_of(plan.wanted(side.view.name))
    return history_relation(side.view, side.entity, side.files, inputs)


def _make_labels(connection: "duckdb.DuckDBPyConnection", plan: SnapshotPlan) -> None:
    side = plan.labels
    relation = history_relation(side.view, side.entity, side.files, [plan.label])
    connection.execute(f"CREATE TEMP TABLE labels AS {labels_sql(plan, relation)}")
    ((count,),) = connection.execute("SELECT count(*) FROM labels").fetchall()
    if not count:
        raise NoLabels(
            f"Label view '{side.view.name}' has no '{plan.label}' in the time span asked for, up to "
            f"{plan.as_of.isoformat()}. Ingest outcomes first, or move as_of.",
            label_view=side.view.name,
            as_of=plan.as_of.isoformat(),
        )


def arrow_schema(plan: SnapshotPlan) -> "pa.Schema":
    """Describe the file: keys, `event_ts`, the label, then features and extra columns as float32.

    Text and timestamps, which only extra columns may be, stay what they are.
    """
    import pyarrow as pa  # noqa: PLC0415 - imported when first needed, see runtime.engine

    kinds = {Dtype.STRING: pa.string(), Dtype.TIMESTAMP: pa.timestamp("us", tz="UTC")}
    fields = [(name, pa.int64() if dtype is Dtype.INT64 else pa.string()) for name, dtype in plan.labels.entity.keys]
    fields.append((LABEL_TIME, pa.timestamp("us", tz="UTC")))
    fields.append((plan.label, kinds.get(plan.labels.view.feature(plan.label).dtype, pa.float32())))
    for ref in plan.columns:
        one = plan.side(ref.view).view.feature(ref.feature)
        fields.append((ref.column, kinds.get(one.dtype, pa.float32())))
    return pa.schema(fields)


def _finished(batch: "pa.RecordBatch", plan: SnapshotPlan, schema: "pa.Schema") -> "pa.RecordBatch":
    import pyarrow as pa  # noqa: PLC0415 - imported when first needed, see runtime.engine

    arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
    for side in plan.sides:
        arrays |= _computed_columns(arrays, side.view, plan.wanted(side.view.name), batch.num_rows)
    return pa.record_batch([arrays[one.name].cast(one.type, safe=False) for one in schema], schema=schema)


def _computed_columns(arrays: Mapping[str, Any], view: View, wanted: Sequence[str], rows: int) -> dict[str, Any]:
    import pyarrow as pa  # noqa: PLC0415 - imported when first needed, see runtime.engine

    on_demand = [name for name in wanted if view.feature(name).expression is not None]
    if not on_demand:
        return {}
    inputs = {
        name: np.asarray(arrays[FeatureRef(view.name, name).column].to_numpy(zero_copy_only=False), dtype=np.float64)
        for name in view.inputs_of(tuple(on_demand))
    }
    values = computed(view, on_demand, inputs, rows)
    return {
        FeatureRef(view.name, name).column: pa.array(column, mask=np.isnan(column)) for name, column in values.items()
    }
