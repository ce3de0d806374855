"""Queries on which blobs are known: every blob that a version may name has a row."""

from collections.abc import Iterable
from datetime import datetime

from clave_common.database import Transaction
from sqlalchemy import delete, exists, select
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.mlflow.tables import artifacts
from clave_registry.storage.tables import blobs, manifest_entries


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
