"""Queries on registered models and their aliases."""

from datetime import datetime
from typing import Any

from clave_common.access import Caller
from clave_common.access.filters import visible_to
from clave_common.database import Transaction
from sqlalchemy import ColumnElement, Select, delete, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.records import AliasEventRow, AliasRow, ModelRow, record, records
from clave_registry.storage.tables import alias_history, aliases, models


async def add(tx: Transaction, values: dict[str, Any]) -> ModelRow | None:
    """Insert a model; None when the tenant has one of that name."""
    statement = (
        insert(models)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["tenant", "name"], index_where=models.c.deleted_at.is_(None))
        .returning(*models.c)
    )
    return record(ModelRow, (await tx.session.execute(statement)).mappings().first())


def _named(tenant: str, name: str) -> Select[Any]:
    return select(models).where(models.c.tenant == tenant, models.c.name == name, models.c.deleted_at.is_(None))


async def by_name(tx: Transaction, tenant: str, name: str, *, lock: bool = False) -> ModelRow | None:
    """Find a model by its name; with `lock`, hold it until the transaction ends."""
    statement = _named(tenant, name)
    if lock:
        statement = statement.with_for_update()
    return record(ModelRow, (await tx.session.execute(statement)).mappings().first())


def seen_by(caller: Caller) -> ColumnElement[bool]:
    """Narrow a list of models to what the policy lets a caller see."""
    return visible_to(caller, tenant=models.c.tenant, resource_id=literal("models/") + models.c.name)


async def page(
    tx: Transaction, caller: Caller, tenant: str, *, after: str | None, limit: int, tag: tuple[str, str] | None
) -> list[ModelRow]:
    """List the models that a caller sees by name, from after a name on."""
    statement = select(models).where(models.c.tenant == tenant, models.c.deleted_at.is_(None), seen_by(caller))
    if after is not None:
        statement = statement.where(models.c.name > after)
    if tag is not None:
        statement = statement.where(models.c.tags.contains({tag[0]: tag[1]}))
    statement = statement.order_by(models.c.name).limit(limit)
    return records(ModelRow, (await tx.session.execute(statement)).mappings())


async def change(tx: Transaction, model_id: str, *, at: datetime, **values: Any) -> ModelRow:
    """Update a model and its revision."""
    statement = (
        update(models)
        .where(models.c.id == model_id)
        .values(revision=models.c.revision + 1, updated_at=at, **values)
        .returning(*models.c)
    )
    return ModelRow(**(await tx.session.execute(statement)).mappings().one())


async def take_number(tx: Transaction, model_id: str, *, at: datetime) -> int:
    """Take the next version number; the row lock makes numbers distinct and, on rollback, free of gaps."""
    statement = (
        update(models)
        .where(models.c.id == model_id)
        .values(next_version=models.c.next_version + 1, updated_at=at)
        .returning(models.c.next_version)
    )
    return int((await tx.session.execute(statement)).scalar_one()) - 1


async def aliases_of(tx: Transaction, model_ids: list[str]) -> list[AliasRow]:
    """List the aliases of some models."""
    statement = select(aliases).where(aliases.c.model_id.in_(model_ids)).order_by(aliases.c.alias)
    return records(AliasRow, (await tx.session.execute(statement)).mappings())


async def alias(tx: Transaction, model_id: str, name: str) -> AliasRow | None:
    """Find one alias."""
    statement = select(aliases).where(aliases.c.model_id == model_id, aliases.c.alias == name)
    return record(AliasRow, (await tx.session.execute(statement)).mappings().first())


async def point_alias(
    tx: Transaction, model_id: str, name: str, version: int, *, at: datetime, by: str, reason: str
) -> None:
    """Let an alias name a version, and remember the move."""
    values = {"model_id": model_id, "alias": name, "version": version, "at": at, "by": by}
    statement = insert(aliases).values(**values)
    await tx.session.execute(
        statement.on_conflict_do_update(
            index_elements=["model_id", "alias"], set_={"version": version, "at": at, "by": by}
        )
    )
    await tx.session.execute(insert(alias_history).values(**values, reason=reason))


async def drop_alias(tx: Transaction, model_id: str, name: str, *, at: datetime, by: str, reason: str) -> bool:
    """Remove an alias and remember it; False when there was none."""
    gone = await tx.session.execute(
        delete(aliases).where(aliases.c.model_id == model_id, aliases.c.alias == name).returning(aliases.c.alias)
    )
    if gone.first() is None:
        return False
    await tx.session.execute(
        insert(alias_history).values(model_id=model_id, alias=name, version=None, at=at, by=by, reason=reason)
    )
    return True


async def alias_moves(
    tx: Transaction, model_id: str, name: str, *, before: int | None, limit: int
) -> list[AliasEventRow]:
    """List the moves of an alias, newest first."""
    statement = select(alias_history).where(alias_history.c.model_id == model_id, alias_history.c.alias == name)
    if before is not None:
        statement = statement.where(alias_history.c.seq < before)
    statement = statement.order_by(alias_history.c.seq.desc()).limit(limit)
    return records(AliasEventRow, (await tx.session.execute(statement)).mappings())
