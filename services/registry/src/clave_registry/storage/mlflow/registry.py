"""Queries on registered models and versions as MLflow's clients see them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clave_common.access import Caller
from clave_common.access.filters import visible_to
from clave_common.database import Database, Transaction
from sqlalchemy import Select, Text, cast, delete, func, literal, literal_column, select, update
from sqlalchemy.dialects.postgresql import distinct_on

from clave_registry.domain.filters import Kind
from clave_registry.storage.mlflow import statements
from clave_registry.storage.mlflow.search import Asked, Binding, Term, condition, epoch_ms, page, terms_of
from clave_registry.storage.models import seen_by
from clave_registry.storage.records import ModelRow, ShownVersion, VersionRow, records
from clave_registry.storage.tables import aliases, models, versions

IS_PROMPT = "mlflow.prompt.is_prompt"
VERSION_PATH = literal("models/") + models.c.name + literal("/versions/") + cast(versions.c.version, Text)
"""A version's canonical path, as the policy names it."""
MODELS = Binding(
    attributes={
        "name": models.c.name,
        "last_updated_timestamp": epoch_ms(models.c.updated_at),
        "timestamp": epoch_ms(models.c.updated_at),
        "creation_timestamp": epoch_ms(models.c.created_at),
    },
    order={
        "last_updated_timestamp": models.c.updated_at,
        "timestamp": models.c.updated_at,
        "creation_timestamp": models.c.created_at,
    },
    tags=models.c.tags,
    default_tags={IS_PROMPT: "false"},
)
VERSIONS = Binding(
    attributes={
        "name": models.c.name,
        "run_id": versions.c.run_id,
        "source_path": versions.c.source,
        "version_number": versions.c.version,
        "creation_timestamp": epoch_ms(versions.c.created_at),
        "last_updated_timestamp": epoch_ms(versions.c.updated_at),
    },
    order={"creation_timestamp": versions.c.created_at, "last_updated_timestamp": versions.c.updated_at},
    tags=versions.c.tags,
    default_tags={IS_PROMPT: "false"},
)


async def search_models(tx: Transaction, asked: Asked, caller: Caller) -> tuple[list[ModelRow], str]:
    """Read a page of the models that a caller sees, by name unless asked otherwise, and the token of the next one."""
    statement = select(models).where(
        models.c.tenant == asked.tenant,
        models.c.deleted_at.is_(None),
        seen_by(caller),
        *(condition(found, MODELS) for found in asked.conditions),
    )
    terms = terms_of(asked.orders, MODELS)
    if not any(order.key == "name" for order in asked.orders):
        terms.append(Term(models.c.name))
    found, following = await page(tx, statement, terms, asked)
    return [ModelRow(*row[: len(models.c)]) for row in found], following


_own = aliases.alias("own")
_OWN_ALIASES = func.array(
    select(_own.c.alias)
    .where(_own.c.model_id == versions.c.model_id, _own.c.version == versions.c.version)
    .order_by(_own.c.alias)
    .scalar_subquery()
).label("own_aliases")
_SHOWN = [versions.c[name] for name in ShownVersion.__dataclass_fields__]
_FOUND: Select[Any] = select(models.c.name.label("model_name"), _OWN_ALIASES, *_SHOWN).join(
    models, models.c.id == versions.c.model_id
)


async def search_versions(
    database: Database, asked: Asked, caller: Caller
) -> tuple[list[tuple[str, list[str], ShownVersion]], str]:
    """Read a page of the versions that a caller sees, with their models' names and their aliases; newest first.

    Where one model is named, its id is looked up first: Postgres then knows whether the model has few versions or many,
    and takes the page from the index that keeps them in order instead of sorting them all.
    """
    conditions = list(asked.conditions)
    named = next((c for c in conditions if c.kind is Kind.ATTRIBUTE and c.key == "name" and c.op == "="), None)
    terms = terms_of(asked.orders, VERSIONS) or [Term(versions.c.updated_at, descending=True)]
    statement = _FOUND
    if named is None:
        statement = statement.where(models.c.tenant == asked.tenant, models.c.deleted_at.is_(None))
        terms.append(Term(models.c.name))
    else:
        conditions.remove(named)
        model_id = await statements.id_of(database, asked.tenant, str(named.value))
        if model_id is None:
            return [], ""
        statement = statement.where(versions.c.model_id == model_id)
    if any(c.kind is Kind.ATTRIBUTE and c.key == "run_id" and c.op == "=" and c.value for c in conditions):
        statement = statement.where(versions.c.run_id != literal_column("''"))  # as the index on runs says
    visible = visible_to(caller, tenant=models.c.tenant, resource_id=VERSION_PATH)
    statement = statement.where(
        versions.c.deleted_at.is_(None), visible, *(condition(found, VERSIONS) for found in conditions)
    )
    async with database.transaction() as tx:
        found, following = await page(tx, statement, [*terms, Term(versions.c.version, descending=True)], asked)
    rows: list[tuple[Any, ...]] = [tuple(row) for row in found]
    return [(row[0], row[1], ShownVersion(*row[2 : len(_SHOWN) + 2])) for row in rows], following


async def latest(tx: Transaction, model_ids: Sequence[str]) -> list[VersionRow]:
    """Give the highest version of each legacy stage of some models."""
    statement = (
        select(versions)
        .ext(distinct_on(versions.c.model_id, versions.c.legacy_stage))
        .where(versions.c.model_id.in_(list(model_ids)), versions.c.deleted_at.is_(None))
        .order_by(versions.c.model_id, versions.c.legacy_stage, versions.c.version.desc())
    )
    return records(VersionRow, (await tx.session.execute(statement)).mappings())


async def highest(tx: Transaction, model_id: str) -> VersionRow | None:
    """Give a model's highest version."""
    statement = (
        select(versions)
        .where(versions.c.model_id == model_id, versions.c.deleted_at.is_(None))
        .order_by(versions.c.version.desc())
        .limit(1)
    )
    found = records(VersionRow, (await tx.session.execute(statement)).mappings())
    return found[0] if found else None


async def archive_others(tx: Transaction, model_id: str, version: int, stage: str, *, at: datetime) -> None:
    """Move every other version of a stage to Archived."""
    await tx.session.execute(
        update(versions)
        .where(
            versions.c.model_id == model_id,
            versions.c.version != version,
            versions.c.legacy_stage == stage,
            versions.c.deleted_at.is_(None),
        )
        .values(legacy_stage="Archived", updated_at=at, revision=versions.c.revision + 1)
    )


async def forget_aliases(tx: Transaction, model_id: str, version: int) -> list[str]:
    """Remove the aliases of a version; returns their names."""
    statement = (
        delete(aliases).where(aliases.c.model_id == model_id, aliases.c.version == version).returning(aliases.c.alias)
    )
    return list((await tx.session.execute(statement)).scalars())


async def delete_versions(tx: Transaction, model_id: str, *, at: datetime) -> None:
    """Delete every version of a model and its aliases."""
    await tx.session.execute(delete(aliases).where(aliases.c.model_id == model_id))
    await tx.session.execute(
        update(versions)
        .where(versions.c.model_id == model_id, versions.c.deleted_at.is_(None))
        .values(deleted_at=func.coalesce(versions.c.deleted_at, at))
    )
