"""Queries on experiments."""

from collections.abc import Sequence
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import BigInteger, RowMapping, Text, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.mlflow.search import Asked, Binding, Term, condition, mapped_page, terms_of
from clave_registry.storage.mlflow.tables import experiments, runs

BINDING = Binding(
    attributes={
        "name": experiments.c.name,
        "experiment_id": cast(experiments.c.id, Text),
        "creation_time": experiments.c.creation_time,
        "last_update_time": experiments.c.last_update_time,
    },
    tags=experiments.c.tags,
)


async def search(tx: Transaction, asked: Asked, *, stages: Sequence[str]) -> tuple[list[RowMapping], str]:
    """Read a page of a tenant's experiments, newest first unless asked otherwise."""
    statement = select(experiments).where(
        experiments.c.tenant == asked.tenant,
        experiments.c.lifecycle_stage.in_(stages),
        *(condition(found, BINDING) for found in asked.conditions),
    )
    terms = terms_of(asked.orders, BINDING) or [Term(experiments.c.creation_time, descending=True)]
    return await mapped_page(tx, statement, [*terms, Term(experiments.c.id)], asked)


async def add(tx: Transaction, values: dict[str, Any]) -> int | None:
    """Insert an experiment; None when the tenant has one of that name."""
    statement = insert(experiments).values(**values).on_conflict_do_nothing().returning(experiments.c.id)
    found = (await tx.session.execute(statement)).scalar()
    return None if found is None else int(found)


async def find(
    tx: Transaction, tenant: str, *, experiment_id: int | None = None, name: str | None = None
) -> dict[str, Any] | None:
    """Find an experiment by id or name, deleted ones too."""
    statement = select(experiments).where(experiments.c.tenant == tenant)
    if experiment_id is not None:
        statement = statement.where(experiments.c.id == cast(experiment_id, BigInteger))
    if name is not None:
        statement = statement.where(experiments.c.name == name)
    row = (await tx.session.execute(statement)).mappings().first()
    return None if row is None else {str(key): value for key, value in row.items()}


async def change(tx: Transaction, experiment_id: int, **values: Any) -> None:
    """Update an experiment."""
    await tx.session.execute(update(experiments).where(experiments.c.id == experiment_id).values(**values))


async def set_lifecycle(tx: Transaction, experiment_id: int, stage: str, *, at: int) -> None:
    """Delete or restore an experiment and its runs with it."""
    await change(tx, experiment_id, lifecycle_stage=stage, last_update_time=at)
    await tx.session.execute(update(runs).where(runs.c.experiment_id == experiment_id).values(lifecycle_stage=stage))


async def put_tag(tx: Transaction, experiment_id: int, key: str, value: str, *, at: int) -> None:
    """Set one tag."""
    merged = experiments.c.tags.op("||")(func.jsonb_build_object(key, value))
    await change(tx, experiment_id, tags=merged, last_update_time=at)


async def drop_tag(tx: Transaction, experiment_id: int, key: str, *, at: int) -> None:
    """Remove one tag."""
    await change(tx, experiment_id, tags=experiments.c.tags.op("-")(key), last_update_time=at)
