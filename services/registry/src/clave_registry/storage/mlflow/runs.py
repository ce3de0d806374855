"""Queries on runs, their metrics, datasets and models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clave_common.database import Database, Transaction
from sqlalchemy import (
    BigInteger,
    Float,
    RowMapping,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from clave_registry.domain.filters import Value
from clave_registry.storage.mlflow.search import (
    Asked,
    Binding,
    Expression,
    Term,
    compared,
    condition,
    mapped_page,
    terms_of,
)
from clave_registry.storage.mlflow.tables import latest_metrics, metrics, run_datasets, run_models, runs


def _metric(key: str, op: str, value: float) -> Any:
    this = and_(latest_metrics.c.run_id == runs.c.run_id, latest_metrics.c.key == key)
    ordinary = and_(latest_metrics.c.is_nan.is_(False), compared(latest_metrics.c.value, op, value))
    held = or_(latest_metrics.c.is_nan, ordinary) if op == "!=" else ordinary
    return exists().where(this, held)


def _metric_terms(key: str) -> tuple[Expression, Expression]:
    def of(column: Expression) -> Expression:
        found: Expression = (
            select(column)
            .where(latest_metrics.c.run_id == runs.c.run_id, latest_metrics.c.key == key)
            .scalar_subquery()
        )
        return found

    is_nan = of(latest_metrics.c.is_nan)
    rank: Expression = case((is_nan.is_(None), 2), (is_nan, 1), else_=0)
    return rank, func.coalesce(of(latest_metrics.c.value), literal(0.0, Float))


def _dataset(key: str, op: str, value: Value) -> Any:
    this = run_datasets.c.run_id == runs.c.run_id
    if key == "context":
        return exists().where(this, compared(run_datasets.c.tags["mlflow.data.context"].astext, op, value))
    column = run_datasets.c.digest if key == "digest" else run_datasets.c.name
    return exists().where(this, compared(column, op, value))


BINDING = Binding(
    attributes={
        "run_id": runs.c.run_id,
        "run_name": runs.c.run_name,
        "status": runs.c.status,
        "artifact_uri": runs.c.artifact_uri,
        "user_id": runs.c.user_id,
        "lifecycle_stage": runs.c.lifecycle_stage,
        "experiment_id": cast(runs.c.experiment_id, Text),
        "start_time": runs.c.start_time,
        "end_time": runs.c.end_time,
        "created": runs.c.start_time,
        "Created": runs.c.start_time,
    },
    tags=runs.c.tags,
    params=runs.c.params,
    metric=_metric,
    metric_terms=_metric_terms,
    dataset=_dataset,
)


async def search(
    tx: Transaction, asked: Asked, *, experiment_ids: Sequence[int], stages: Sequence[str]
) -> tuple[list[RowMapping], str]:
    """Read a page of the runs of some experiments, newest first after what was asked for."""
    statement = select(runs).where(
        runs.c.tenant == asked.tenant,
        runs.c.experiment_id.in_([cast(number, BigInteger) for number in experiment_ids]),
        runs.c.lifecycle_stage.in_(stages),
        *(condition(found, BINDING) for found in asked.conditions),
    )
    terms = [*terms_of(asked.orders, BINDING), Term(runs.c.start_time, descending=True), Term(runs.c.run_id)]
    return await mapped_page(tx, statement, terms, asked)


async def add(tx: Transaction, values: dict[str, Any]) -> RowMapping:
    """Insert a run."""
    return (await tx.session.execute(insert(runs).values(**values).returning(*runs.c))).mappings().one()


async def find(tx: Transaction, tenant: str, run_id: str, *, lock: bool = False) -> RowMapping | None:
    """Find a run; with `lock`, hold it until the transaction ends."""
    statement = select(runs).where(runs.c.run_id == run_id, runs.c.tenant == tenant)
    if lock:
        statement = statement.with_for_update()
    return (await tx.session.execute(statement)).mappings().first()


async def change(tx: Transaction, run_id: str, **values: Any) -> RowMapping:
    """Update a run."""
    statement = update(runs).where(runs.c.run_id == run_id).values(**values).returning(*runs.c)
    return (await tx.session.execute(statement)).mappings().one()


async def merge_tags(tx: Transaction, run_id: str, tags: dict[str, str]) -> None:
    """Set some tags."""
    await tx.session.execute(
        update(runs).where(runs.c.run_id == run_id).values(tags=runs.c.tags.op("||")(literal(tags, runs.c.tags.type)))
    )


_METRIC_TYPES = {
    "key": "text",
    "timestamp": "bigint",
    "step": "bigint",
    "value": "float8",
    "is_nan": "bool",
    "model_id": "text",
    "dataset_name": "text",
    "dataset_digest": "text",
}
# One array a column: a thousand values are one statement with nine parameters, parsed and planned once.
_COLUMNS = ", ".join(_METRIC_TYPES)
_ARRAYS = ", ".join(f"cast(:{name} as {kind}[])" for name, kind in _METRIC_TYPES.items())
_GIVEN = f"(run_id, {_COLUMNS}) select :run_id, given.* from unnest({_ARRAYS}) as given"  # noqa: S608 - constants
_APPEND = text(f"insert into {metrics.fullname} {_GIVEN} on conflict do nothing")
_UPDATE_LATEST = text(
    f"insert into {latest_metrics.fullname} as old {_GIVEN} on conflict (run_id, key) do update set "
    + ", ".join(f"{name} = excluded.{name}" for name in _METRIC_TYPES if name != "key")
    + " where (excluded.step, excluded.timestamp, excluded.value) >= (old.step, old.timestamp, old.value)"
)


async def add_metrics(tx: Transaction, run_id: str, values: Sequence[dict[str, Any]]) -> None:
    """Append values of metrics; one that is there already changes nothing. The caller holds the run's row."""
    if not values:
        return
    latest: dict[str, dict[str, Any]] = {}
    for row in values:
        if row["key"] not in latest or _rank(row) >= _rank(latest[row["key"]]):
            latest[row["key"]] = row
    facts = {"run_id": run_id, **{name: [row[name] for row in values] for name in _METRIC_TYPES}}
    await tx.session.execute(_APPEND, facts)
    newest = [latest[key] for key in sorted(latest)]
    facts = {"run_id": run_id, **{name: [row[name] for row in newest] for name in _METRIC_TYPES}}
    await tx.session.execute(_UPDATE_LATEST, facts)


def _rank(row: dict[str, Any]) -> tuple[int, int, float]:
    return row["step"], row["timestamp"], row["value"]


@dataclass(frozen=True, slots=True)
class Belongings:
    """What belongs to some runs, by run id: latest values of metrics, datasets, and logged models taken and given."""

    metrics: Mapping[str, Sequence[Mapping[str, Any]]]
    datasets: Mapping[str, Sequence[Mapping[str, Any]]]
    models: Mapping[str, Sequence[Mapping[str, Any]]]


_OF_RUNS = {
    name: f"select * from {name} where run_id = any(%(ids)s) order by {order}"  # noqa: S608 - constants
    for name, order in (("latest_metrics", "key"), ("run_datasets", "name"), ("run_models", "model_id"))
}


async def belongings_of(database: Database, run_ids: Sequence[str]) -> Belongings:
    """Read what belongs to some runs."""
    found = [_grouped(await database.run(statement, {"ids": list(run_ids)})) for statement in _OF_RUNS.values()]
    return Belongings(*found)


async def shown(database: Database, tenant: str, run_id: str) -> Mapping[str, Any] | None:
    """Read a run, to show it."""
    statement = "select * from runs where run_id = %(run_id)s and tenant = %(tenant)s"
    rows = await database.run(statement, {"run_id": run_id, "tenant": tenant})
    return rows[0] if rows else None


def _grouped(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["run_id"], []).append(row)
    return grouped


async def history(
    tx: Transaction, run_id: str, key: str, *, after: Sequence[Any] | None, limit: int
) -> list[RowMapping]:
    """List the values of a metric by time, step and value."""
    place = (metrics.c.timestamp, metrics.c.step, metrics.c.value, metrics.c.is_nan)
    statement = select(metrics).where(metrics.c.run_id == run_id, metrics.c.key == key)
    if after is not None:
        position = (
            cast(after[0], BigInteger),
            cast(after[1], BigInteger),
            cast(after[2], Float),
            cast(after[3], metrics.c.is_nan.type),
        )
        statement = statement.where(tuple_(*place) > tuple_(*position))
    return list((await tx.session.execute(statement.order_by(*place).limit(limit))).mappings())


async def add_datasets(tx: Transaction, run_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Record the datasets of a run; one that is there already changes nothing."""
    if rows:
        values = [{"run_id": run_id, **row} for row in rows]
        await tx.session.execute(insert(run_datasets).on_conflict_do_nothing(), values)


async def add_models(tx: Transaction, run_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Record the logged models that a run took or gave."""
    if rows:
        values = [{"run_id": run_id, **row} for row in rows]
        statement = insert(run_models)
        await tx.session.execute(
            statement.on_conflict_do_update(
                index_elements=["run_id", "model_id", "role"], set_={"step": statement.excluded.step}
            ),
            values,
        )
