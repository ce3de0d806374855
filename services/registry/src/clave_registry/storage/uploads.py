"""Queries on uploads that come in parts."""

from datetime import datetime
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import RowMapping, delete, insert, select, update

from clave_registry.storage.blob_tables import uploads


async def add(tx: Transaction, values: dict[str, Any]) -> None:
    """Insert an upload."""
    await tx.session.execute(insert(uploads).values(**values))


async def find(tx: Transaction, tenant: str, upload: str) -> RowMapping | None:
    """Find an upload."""
    statement = select(uploads).where(uploads.c.tenant == tenant, uploads.c.id == upload)
    return (await tx.session.execute(statement)).mappings().first()


async def unfinished_of(tx: Transaction, tenant: str, digest: str, *, by: str, parts: int) -> RowMapping | None:
    """Find somebody's unfinished upload of some bytes in as many parts, the newest."""
    statement = (
        select(uploads)
        .where(uploads.c.tenant == tenant, uploads.c.digest == digest, uploads.c.created_by == by)
        .where(uploads.c.parts == parts, uploads.c.finished_digest.is_(None))
        .order_by(uploads.c.created_at.desc())
        .limit(1)
    )
    return (await tx.session.execute(statement)).mappings().first()


async def finish(tx: Transaction, upload: str, *, digest: str, size: int) -> None:
    """Record what an upload became."""
    await tx.session.execute(
        update(uploads).where(uploads.c.id == upload).values(finished_digest=digest, finished_size=size)
    )


async def remove(tx: Transaction, upload: str) -> None:
    """Forget an upload."""
    await tx.session.execute(delete(uploads).where(uploads.c.id == upload))


async def remove_older(tx: Transaction, *, before: datetime) -> int:
    """Forget the uploads that began before a time; return how many there were."""
    gone = await tx.session.execute(delete(uploads).where(uploads.c.created_at < before).returning(uploads.c.id))
    return len(gone.all())
