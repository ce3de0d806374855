"""Queries on legal holds: what must not be removed, why, who said so and who lifted it."""

from datetime import datetime
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import ColumnElement, RowMapping, outerjoin, select, update
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.blob_tables import holds
from clave_registry.storage.blobs import keep_link
from clave_registry.storage.tables import models


async def place(tx: Transaction, values: dict[str, Any]) -> bool:
    """Place a hold; False when there is one."""
    statement = insert(holds).values(**values).on_conflict_do_nothing().returning(holds.c.seq)
    if values.get("digest") is not None:
        await keep_link(tx, values["tenant"], values["digest"])
    return (await tx.session.execute(statement)).first() is not None


async def lift(
    tx: Transaction, tenant: str, *, of: ColumnElement[bool], by: str, at: datetime, reason: str
) -> list[RowMapping]:
    """Lift the holds that a condition names; gives those that were in force."""
    statement = (
        update(holds)
        .where(holds.c.tenant == tenant, holds.c.lifted_at.is_(None), of)
        .values(lifted_by=by, lifted_at=at, lift_reason=reason)
        .returning(*holds.c)
    )
    return list((await tx.session.execute(statement)).mappings())


def on_version(model_id: str, version: int) -> ColumnElement[bool]:
    """Name the hold on a version."""
    return (holds.c.model_id == model_id) & (holds.c.version == version)


def on_blob(digest: str) -> ColumnElement[bool]:
    """Name the hold on a blob."""
    return holds.c.digest == digest


async def held_versions(tx: Transaction, model_id: str, version: int | None = None) -> list[int]:
    """List the versions of a model that are held (or tell it of one)."""
    statement = select(holds.c.version).where(holds.c.model_id == model_id, holds.c.lifted_at.is_(None))
    if version is not None:
        statement = statement.where(holds.c.version == version)
    return list((await tx.session.execute(statement.order_by(holds.c.version))).scalars())


async def page(tx: Transaction, tenant: str, *, before: int | None, limit: int) -> list[RowMapping]:
    """List a tenant's holds with the names of their models, lifted ones too, newest first."""
    named = outerjoin(holds, models, models.c.id == holds.c.model_id)
    statement = select(*holds.c, models.c.name.label("model")).select_from(named).where(holds.c.tenant == tenant)
    if before is not None:
        statement = statement.where(holds.c.seq < before)
    return list((await tx.session.execute(statement.order_by(holds.c.seq.desc()).limit(limit))).mappings())
