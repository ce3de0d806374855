"""Queries on registered models and versions as MLflow's clients see them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import Select, Text, cast, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import distinct_on

from clave_registry.storage.mlflow.search import Binding, epoch_ms
from clave_registry.storage.records import VersionRow, records
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
    tags=versions.c.tags,
    default_tags={IS_PROMPT: "false"},
)


def all_models(tenant: str) -> Select[Any]:
    """Select a tenant's models."""
    return select(models).where(models.c.tenant == tenant, models.c.deleted_at.is_(None))


def all_versions(tenant: str) -> Select[Any]:
    """Select a tenant's versions with the names of their models."""
    return (
        select(models.c.name.label("model_name"), *versions.c)
        .join(models, models.c.id == versions.c.model_id)
        .where(models.c.tenant == tenant, models.c.deleted_at.is_(None), versions.c.deleted_at.is_(None))
    )


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
