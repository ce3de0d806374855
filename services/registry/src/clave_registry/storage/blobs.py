"""Queries on which blobs are known: every blob that a version may name has a row."""

from collections.abc import Iterable
from datetime import datetime

from clave_common.database import Transaction
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.tables import blobs


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
