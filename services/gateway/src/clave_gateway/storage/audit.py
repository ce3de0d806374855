"""Queries on the audit log, its tree and its checkpoints."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_gateway.domain.merkle import Frontier
from clave_gateway.storage.tables import audit_checkpoints, audit_log, audit_tree

_FETCH_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One entry of the log.

    Attributes:
        canonical: The entry in canonical JSON (RFC 8785): the leaf's data.
    """

    index: int
    entry_id: str
    canonical: bytes
    leaf_hash: bytes
    tenant: str
    actor: str
    action: str
    resource: str
    at: datetime
    recorded_at: datetime


async def lock_log(session: AsyncConnection) -> None:
    """Become the only sequencer until the transaction ends."""
    await session.execute(text("select pg_advisory_xact_lock(hashtext('gateway:audit'))"))


async def read_frontier(session: AsyncConnection) -> Frontier:
    """Read the tree's frontier; an empty log has an empty one."""
    row = (await session.execute(select(audit_tree.c.size, audit_tree.c.frontier))).one_or_none()
    return Frontier(row.size, tuple(bytes(root) for root in row.frontier)) if row else Frontier()


async def write_frontier(session: AsyncConnection, frontier: Frontier) -> None:
    """Keep the tree's frontier."""
    values = {"size": frontier.size, "frontier": list(frontier.roots)}
    await session.execute(
        upsert(audit_tree).values(only=True, **values).on_conflict_do_update(index_elements=["only"], set_=values)
    )


async def known_entries(session: AsyncConnection, entry_ids: Sequence[str]) -> set[str]:
    """Tell which entries are in the log already."""
    query = select(audit_log.c.entry_id).where(audit_log.c.entry_id.in_(entry_ids))
    return set((await session.execute(query)).scalars())


async def append_rows(session: AsyncConnection, rows: Sequence[AuditRow]) -> None:
    """Append rows."""
    values = [{name: getattr(row, name) for name in AuditRow.__slots__} for row in rows]
    await session.execute(insert(audit_log), values)


async def search(
    session: AsyncConnection, conditions: Sequence[ColumnElement[bool]], *, before: int | None, limit: int
) -> list[AuditRow]:
    """List entries that meet every condition, newest first."""
    query = select(audit_log).where(*conditions)
    if before is not None:
        query = query.where(audit_log.c.index < before)
    query = query.order_by(audit_log.c.index.desc()).limit(limit)
    return [_row(row._asdict()) for row in await session.execute(query)]


async def find_entry(session: AsyncConnection, entry_id: str) -> AuditRow | None:
    """Find an entry by its own id."""
    row = (await session.execute(select(audit_log).where(audit_log.c.entry_id == entry_id))).one_or_none()
    return _row(row._asdict()) if row else None


async def stream_rows(session: AsyncConnection, *, first: int = 0) -> AsyncIterator[AuditRow]:
    """Give every row from an index on, in order, a few thousand at a time."""
    after = first - 1
    while True:
        query = select(audit_log).where(audit_log.c.index > after).order_by(audit_log.c.index).limit(_FETCH_ROWS)
        rows = [_row(row._asdict()) for row in await session.execute(query)]
        for row in rows:
            yield row
        if len(rows) < _FETCH_ROWS:
            return
        after = rows[-1].index


async def page_after(
    session: AsyncConnection, conditions: Sequence[ColumnElement[bool]], *, after: int
) -> list[AuditRow]:
    """List the next entries that meet every condition, oldest first."""
    query = (
        select(audit_log).where(audit_log.c.index > after, *conditions).order_by(audit_log.c.index).limit(_FETCH_ROWS)
    )
    return [_row(row._asdict()) for row in await session.execute(query)]


async def leaf_hashes(session: AsyncConnection, size: int) -> list[bytes]:
    """List the leaf hashes of the first entries."""
    query = select(audit_log.c.leaf_hash).where(audit_log.c.index < size).order_by(audit_log.c.index)
    return [bytes(leaf) for leaf in (await session.execute(query)).scalars()]


async def add_checkpoint(session: AsyncConnection, *, size: int, root: bytes, note: str, at: datetime) -> bool:
    """Keep a checkpoint; False when one of this size exists."""
    result = await session.execute(
        upsert(audit_checkpoints)
        .values(size=size, root=root, note=note, at=at)
        .on_conflict_do_nothing()
        .returning(audit_checkpoints.c.size)
    )
    return result.first() is not None


async def newest_checkpoint(session: AsyncConnection) -> str | None:
    """Return the note of the largest checkpoint."""
    query = select(audit_checkpoints.c.note).order_by(audit_checkpoints.c.size.desc()).limit(1)
    note = (await session.execute(query)).scalar_one_or_none()
    return str(note) if note is not None else None


async def list_checkpoints(session: AsyncConnection) -> list[str]:
    """List every checkpoint's note by size."""
    query = select(audit_checkpoints.c.note).order_by(audit_checkpoints.c.size)
    return list((await session.execute(query)).scalars())


def _row(fields: dict[str, Any]) -> AuditRow:
    return AuditRow(**{**fields, "canonical": bytes(fields["canonical"]), "leaf_hash": bytes(fields["leaf_hash"])})
