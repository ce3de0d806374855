"""Queries on the artifacts of runs and logged models: which path holds which blob."""

from collections.abc import Sequence
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import RowMapping, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.mlflow.tables import artifacts
from clave_registry.storage.tables import manifest_entries, models, versions

FILES_MAX = 100_000


async def hold_still(tx: Transaction, tenant: str) -> None:
    """Keep every path as it is until the transaction ends (a version is being made from some of them)."""
    await tx.session.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"artifacts:{tenant}"))))


async def begin_write(tx: Transaction, tenant: str) -> None:
    """Wait until no version is being made; writers do not wait for each other."""
    await tx.session.execute(select(func.pg_advisory_xact_lock_shared(func.hashtext(f"artifacts:{tenant}"))))


async def put(tx: Transaction, tenant: str, path: str, *, digest: str, size: int) -> None:
    """Let a path hold a blob."""
    values = {"digest": digest, "size": size}
    statement = insert(artifacts).values(tenant=tenant, path=path, **values)
    await tx.session.execute(statement.on_conflict_do_update(index_elements=["tenant", "path"], set_=values))


async def find(tx: Transaction, tenant: str, path: str) -> RowMapping | None:
    """Find the blob of a path."""
    statement = select(artifacts).where(artifacts.c.tenant == tenant, artifacts.c.path == path)
    return (await tx.session.execute(statement)).mappings().first()


async def below(tx: Transaction, tenant: str, folder: str) -> list[RowMapping]:
    """List every file below a folder, by path."""
    prefix = f"{folder}/" if folder else ""
    statement = (
        select(artifacts)
        .where(artifacts.c.tenant == tenant, func.starts_with(artifacts.c.path, prefix))
        .where(artifacts.c.path >= prefix, artifacts.c.path < f"{prefix}\U0010ffff")
        .order_by(artifacts.c.path)
        .limit(FILES_MAX)
    )
    return list((await tx.session.execute(statement)).mappings())


async def any_at(tx: Transaction, tenant: str, paths: Sequence[str]) -> bool:
    """Tell whether any of some paths is a file."""
    statement = select(artifacts.c.path).where(artifacts.c.tenant == tenant, artifacts.c.path.in_(list(paths)))
    return (await tx.session.execute(statement.limit(1))).first() is not None


async def remove(tx: Transaction, tenant: str, paths: Sequence[str]) -> None:
    """Forget some paths; their blobs stay until they are collected."""
    await tx.session.execute(delete(artifacts).where(artifacts.c.tenant == tenant, artifacts.c.path.in_(list(paths))))


async def pinned_files(tx: Transaction, tenant: str, model_id: str, version: int) -> list[dict[str, Any]]:
    """List the files of a registered version, by path."""
    statement = (
        select(manifest_entries.c.path, manifest_entries.c.digest, manifest_entries.c.size)
        .join(versions, versions.c.manifest_digest == manifest_entries.c.manifest_digest)
        .join(models, models.c.id == versions.c.model_id)
        .where(
            models.c.tenant == tenant,
            versions.c.model_id == model_id,
            versions.c.version == version,
            versions.c.deleted_at.is_(None),
        )
        .order_by(manifest_entries.c.path)
    )
    return [{"path": p, "digest": d, "size": s} for p, d, s in (await tx.session.execute(statement)).all()]


async def pinned_by(tx: Transaction, tenant: str, folders: Sequence[str]) -> tuple[str, int] | None:
    """Find a registered version (model, number) whose artifacts lie in one of some folders."""
    statement = (
        select(models.c.name, versions.c.version)
        .join(models, models.c.id == versions.c.model_id)
        .where(
            models.c.tenant == tenant,
            models.c.deleted_at.is_(None),
            versions.c.artifact_root.in_(list(folders)),
            versions.c.deleted_at.is_(None),
        )
        .limit(1)
    )
    row = (await tx.session.execute(statement)).first()
    return None if row is None else (str(row[0]), int(row[1]))
