"""Queries on model versions: their rows, artifacts, approvals, history and datasets."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import and_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from clave_registry.domain.manifest import Manifest
from clave_registry.storage.blobs import name_manifests
from clave_registry.storage.records import (
    ApprovalRow,
    EntryRow,
    VersionRow,
    record,
    records,
)
from clave_registry.storage.tables import (
    approvals,
    dataset_uses,
    manifest_entries,
    models,
    version_events,
    versions,
)


async def add(tx: Transaction, values: dict[str, Any]) -> VersionRow:
    """Insert a version."""
    statement = insert(versions).values(**values).returning(*versions.c)
    return VersionRow(**(await tx.session.execute(statement)).mappings().one())


async def find(tx: Transaction, model_id: str, version: int, *, lock: bool = False) -> VersionRow | None:
    """Find a version; with `lock`, hold it until the transaction ends."""
    statement = select(versions).where(
        versions.c.model_id == model_id, versions.c.version == version, versions.c.deleted_at.is_(None)
    )
    if lock:
        statement = statement.with_for_update()
    return record(VersionRow, (await tx.session.execute(statement)).mappings().first())


async def page(
    tx: Transaction, model_id: str, *, before: int | None, limit: int, status: str | None
) -> list[VersionRow]:
    """List a model's versions, newest first, from before a number on."""
    statement = select(versions).where(versions.c.model_id == model_id, versions.c.deleted_at.is_(None))
    if before is not None:
        statement = statement.where(versions.c.version < before)
    if status is not None:
        statement = statement.where(versions.c.status == status)
    statement = statement.order_by(versions.c.version.desc()).limit(limit)
    return records(VersionRow, (await tx.session.execute(statement)).mappings())


async def several(tx: Transaction, keys: Sequence[tuple[str, int]]) -> list[VersionRow]:
    """Find versions by (model id, number)."""
    rows: list[VersionRow] = []
    for model_id in sorted({model_id for model_id, _ in keys}):
        numbers = [version for owner, version in keys if owner == model_id]
        statement = select(versions).where(and_(versions.c.model_id == model_id, versions.c.version.in_(numbers)))
        rows += records(VersionRow, (await tx.session.execute(statement)).mappings())
    return rows


async def change(tx: Transaction, row: VersionRow, *, at: datetime, **values: Any) -> VersionRow:
    """Update a version and its revision."""
    statement = (
        update(versions)
        .where(versions.c.model_id == row.model_id, versions.c.version == row.version)
        .values(revision=versions.c.revision + 1, updated_at=at, **values)
        .returning(*versions.c)
    )
    return VersionRow(**(await tx.session.execute(statement)).mappings().one())


async def remember(tx: Transaction, row: VersionRow, *, at: datetime, by: str, action: str, detail: str) -> None:
    """Append to a version's history."""
    await tx.session.execute(
        insert(version_events).values(
            model_id=row.model_id, version=row.version, at=at, by=by, action=action, detail=detail
        )
    )


async def history(tx: Transaction, row: VersionRow) -> list[dict[str, Any]]:
    """Read a version's history, oldest first (at most 1,000 entries)."""
    statement = (
        select(version_events.c.at, version_events.c.by, version_events.c.action, version_events.c.detail)
        .where(version_events.c.model_id == row.model_id, version_events.c.version == row.version)
        .order_by(version_events.c.seq)
        .limit(1000)
    )
    rows = (await tx.session.execute(statement)).mappings()
    return [{str(name): value for name, value in row.items()} for row in rows]


async def add_approval(tx: Transaction, row: VersionRow, *, by: str, decision: str, at: datetime, comment: str) -> None:
    """Record one person's word, bound to the bytes it was spoken about."""
    await tx.session.execute(
        insert(approvals).values(
            model_id=row.model_id,
            version=row.version,
            by=by,
            decision=decision,
            at=at,
            comment=comment,
            evidence_digest=row.manifest_digest,
        )
    )


async def approvals_of(tx: Transaction, keys: Sequence[tuple[str, int]]) -> list[ApprovalRow]:
    """List the approvals of some versions, oldest first."""
    rows: list[ApprovalRow] = []
    for model_id in sorted({model_id for model_id, _ in keys}):
        numbers = [version for owner, version in keys if owner == model_id]
        statement = (
            select(approvals)
            .where(approvals.c.model_id == model_id, approvals.c.version.in_(numbers))
            .order_by(approvals.c.seq)
        )
        rows += records(ApprovalRow, (await tx.session.execute(statement)).mappings())
    return rows


async def add_manifest(tx: Transaction, manifest: Manifest) -> None:
    """Store a manifest's entries for the version that this transaction adds; the same ones again change nothing."""
    await name_manifests(tx)
    rows = [
        {"manifest_digest": manifest.digest, "path": a.path, "digest": a.digest, "size": a.size}
        for a in manifest.artifacts
    ]
    await tx.session.execute(insert(manifest_entries).on_conflict_do_nothing(), rows)


async def entries_of(tx: Transaction, manifest_digests: Sequence[str]) -> list[EntryRow]:
    """List the artifacts of some manifests, by path."""
    statement = (
        select(manifest_entries)
        .where(manifest_entries.c.manifest_digest.in_(sorted(set(manifest_digests))))
        .order_by(manifest_entries.c.manifest_digest, manifest_entries.c.path)
    )
    return records(EntryRow, (await tx.session.execute(statement)).mappings())


async def add_datasets(tx: Transaction, row: VersionRow, datasets: Sequence[dict[str, Any]]) -> None:
    """Index the training sets of a version by digest."""
    if datasets:
        rows = [
            {
                "model_id": row.model_id,
                "version": row.version,
                "digest": dataset["digest"],
                "dataset_id": dataset["id"],
                "name": dataset["name"],
            }
            for dataset in datasets
        ]
        await tx.session.execute(insert(dataset_uses).on_conflict_do_nothing(), rows)


async def using_dataset(
    tx: Transaction, tenant: str, *, digest: str | None, dataset_id: str | None, limit: int
) -> list[tuple[str, VersionRow]]:
    """List (model name, version) for the versions that were made from a training set, newest first."""
    statement = (
        select(models.c.name.label("model_name"), *versions.c)
        .join_from(dataset_uses, versions, _same_version())
        .join(models, models.c.id == versions.c.model_id)
        .where(models.c.tenant == tenant)
        .order_by(versions.c.created_at.desc())
        .limit(limit)
    )
    if digest is not None:
        statement = statement.where(dataset_uses.c.digest == digest)
    if dataset_id is not None:
        statement = statement.where(dataset_uses.c.dataset_id == dataset_id)
    found: list[tuple[str, VersionRow]] = []
    for row in (await tx.session.execute(statement)).mappings():
        values = dict(row)
        found.append((str(values.pop("model_name")), VersionRow(**values)))
    return found


async def using_datasets(
    tx: Transaction, tenant: str, *, ids: Sequence[str], limit: int
) -> list[tuple[str, VersionRow]]:
    """List (model name, version) for the versions that were made from any of some training sets, newest first."""
    used = select(dataset_uses.c.model_id, dataset_uses.c.version).where(dataset_uses.c.dataset_id.in_(list(ids)))
    statement = (
        select(models.c.name.label("model_name"), *versions.c)
        .join(models, models.c.id == versions.c.model_id)
        .where(
            models.c.tenant == tenant,
            tuple_(versions.c.model_id, versions.c.version).in_(used),
            versions.c.deleted_at.is_(None),
        )
        .order_by(versions.c.created_at.desc())
        .limit(limit)
    )
    found: list[tuple[str, VersionRow]] = []
    for row in (await tx.session.execute(statement)).mappings():
        values = dict(row)
        found.append((str(values.pop("model_name")), VersionRow(**values)))
    return found


def _same_version() -> Any:
    return and_(dataset_uses.c.model_id == versions.c.model_id, dataset_uses.c.version == versions.c.version)
