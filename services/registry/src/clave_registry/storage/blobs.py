"""Queries on which blobs are known: every blob that a version may name has a row."""

from collections.abc import Iterable
from datetime import datetime

from clave_common.database import Transaction
from sqlalchemy import delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.blob_tables import holds
from clave_registry.storage.mlflow.tables import artifacts
from clave_registry.storage.tables import blobs, manifest_entries, versions

_MANIFESTS = 0x6D616E69


async def note(tx: Transaction, digest: str, size: int, *, at: datetime) -> None:
    """Record an uploaded blob, or that it was uploaded once more."""
    statement = insert(blobs).values(digest=digest, size=size, created_at=at, used_at=at)
    await tx.session.execute(statement.on_conflict_do_update(index_elements=["digest"], set_={"used_at": at}))


async def sizes(tx: Transaction, digests: Iterable[str]) -> dict[str, int]:
    """Return the sizes of those blobs that are known, and keep them from being collected meanwhile."""
    statement = (
        select(blobs.c.digest, blobs.c.size)
        .where(blobs.c.digest.in_(sorted(set(digests))))
        .order_by(blobs.c.digest)
        .with_for_update(read=True, key_share=True)
    )
    return {digest: int(size) for digest, size in (await tx.session.execute(statement)).all()}


async def name_manifests(tx: Transaction) -> None:
    """Keep manifests from being forgotten until the transaction ends, because it is about to name one."""
    await tx.session.execute(select(func.pg_advisory_xact_lock_shared(_MANIFESTS)))


async def forget_manifests(tx: Transaction, *, deleted_before: datetime) -> int:
    """Forget the manifests that only versions name that were deleted before a time and are under no hold.

    Waits for those who are about to name one; the deletion's own snapshot then sees what they named.
    """
    await tx.session.execute(select(func.pg_advisory_xact_lock(_MANIFESTS)))
    this = versions.c.manifest_digest == manifest_entries.c.manifest_digest
    held = exists().where(
        holds.c.model_id == versions.c.model_id, holds.c.version == versions.c.version, holds.c.lifted_at.is_(None)
    )
    wanted = or_(versions.c.deleted_at.is_(None), versions.c.deleted_at >= deleted_before, held)
    gone = await tx.session.execute(
        delete(manifest_entries)
        .where(exists().where(this), ~exists().where(this, wanted))
        .returning(manifest_entries.c.manifest_digest)
    )
    return len(set(gone.scalars()))


async def take_unnamed(tx: Transaction, *, before: datetime, limit: int) -> list[str]:
    """Forget some blobs that nothing names, were last uploaded before a time, and are under no hold.

    Returns:
        Their digests; their rows stay locked until the transaction ends.
    """
    unnamed = (
        select(blobs.c.digest)
        .where(
            blobs.c.used_at < before,
            blobs.c.held.is_(False),
            ~exists().where(holds.c.digest == blobs.c.digest, holds.c.lifted_at.is_(None)),
            ~exists().where(manifest_entries.c.digest == blobs.c.digest),
            ~exists().where(artifacts.c.digest == blobs.c.digest),
        )
        .order_by(blobs.c.digest)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    digests = list((await tx.session.execute(unnamed)).scalars())
    await tx.session.execute(delete(blobs).where(blobs.c.digest.in_(digests)))
    return digests
