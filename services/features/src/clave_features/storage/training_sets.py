"""Queries on training sets; rows are only ever added."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert

from clave_features.storage.tables import training_sets


@dataclass(frozen=True, slots=True)
class TrainingSetRow:
    """An immutable snapshot: `description` is what its readers get, `manifest` what its digest covers."""

    id: str
    name: str
    digest: str
    manifest_digest: str
    manifest: dict[str, Any]
    description: dict[str, Any]
    feature_service: str
    created_at: datetime
    created_by: str


_COLUMNS = [training_sets.c[name] for name in TrainingSetRow.__dataclass_fields__]


async def find(tx: Transaction, *, name: str, manifest_digest: str) -> TrainingSetRow | None:
    """Find the snapshot of the same inputs."""
    statement = select(*_COLUMNS).where(
        training_sets.c.name == name, training_sets.c.manifest_digest == manifest_digest
    )
    row = (await tx.session.execute(statement)).first()
    return None if row is None else TrainingSetRow(*row)


async def get(tx: Transaction, training_set_id: str) -> TrainingSetRow | None:
    """Find a snapshot by id."""
    statement = select(*_COLUMNS).where(training_sets.c.id == training_set_id)
    row = (await tx.session.execute(statement)).first()
    return None if row is None else TrainingSetRow(*row)


async def add(tx: Transaction, values: Mapping[str, Any]) -> TrainingSetRow | None:
    """Keep a snapshot; None when the same one was added meanwhile."""
    statement = insert(training_sets).values(**values).on_conflict_do_nothing().returning(*_COLUMNS)
    row = (await tx.session.execute(statement)).first()
    return None if row is None else TrainingSetRow(*row)


async def page(
    tx: Transaction, *, name: str | None, after: tuple[datetime, str] | None, limit: int
) -> list[TrainingSetRow]:
    """Return a page of snapshots, the newest first."""
    order = (training_sets.c.created_at, training_sets.c.id)
    statement = select(*_COLUMNS).order_by(*(one.desc() for one in order)).limit(limit)
    if name is not None:
        statement = statement.where(training_sets.c.name == name)
    if after is not None:
        statement = statement.where(tuple_(*order) < after)
    return [TrainingSetRow(*row) for row in (await tx.session.execute(statement)).all()]
