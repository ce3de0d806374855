"""Queries on ingested batches, their history files and their quarantined rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import and_, case, delete, false, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from clave_features.storage.tables import batches, history_files, quarantined_rows

STAGING = "staging"
COMMITTED = "committed"
_QUARANTINE_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One ingested table."""

    batch_no: int
    id: str
    view: str
    view_version: int
    content_digest: str
    idempotency_key: str | None
    status: str
    received_at: datetime
    received_by: str
    rows: int
    accepted: int
    quarantined: int
    reasons: list[dict[str, Any]]
    online_written: int
    online_at: datetime | None


@dataclass(frozen=True, slots=True)
class HistoryFileRow:
    """One Parquet file of a view's history."""

    batch_no: int
    view: str
    digest: str
    size: int
    rows: int
    columns: list[str]
    event_ts_min: datetime
    event_ts_max: datetime


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """One row that was not accepted, and why."""

    batch_no: int
    row_number: int
    view: str
    reasons: list[dict[str, Any]]
    content: dict[str, Any]


_BATCH = [batches.c[name] for name in BatchRow.__dataclass_fields__]
_FILE = [history_files.c[name] for name in HistoryFileRow.__dataclass_fields__]
_QUARANTINED = [quarantined_rows.c[name] for name in QuarantinedRow.__dataclass_fields__]


async def claim(tx: Transaction, values: Mapping[str, Any]) -> BatchRow:
    """Reserve a batch for a content, or find the one that has it already."""
    statement = upsert(batches).values(**values, status=STAGING).on_conflict_do_nothing().returning(*_BATCH)
    new = (await tx.session.execute(statement)).first()
    if new is not None:
        return BatchRow(*new)
    same_content = and_(
        batches.c.view_version == values["view_version"], batches.c.content_digest == values["content_digest"]
    )
    key = values.get("idempotency_key")
    same_key = batches.c.idempotency_key == key if key is not None else false()
    found = (
        select(*_BATCH)
        .where(batches.c.view == values["view"], or_(same_key, same_content))
        .order_by(case((same_key, 0), else_=1), batches.c.batch_no)
        .limit(1)
    )
    return BatchRow(*(await tx.session.execute(found)).one())


async def commit(tx: Transaction, batch_no: int, values: Mapping[str, Any]) -> BatchRow | None:
    """Settle a batch; None when somebody else settled it first."""
    statement = (
        update(batches)
        .where(batches.c.batch_no == batch_no, batches.c.status == STAGING)
        .values(**values, status=COMMITTED)
        .returning(*_BATCH)
    )
    row = (await tx.session.execute(statement)).first()
    return None if row is None else BatchRow(*row)


async def get(tx: Transaction, batch_no: int) -> BatchRow:
    """Return a batch."""
    statement = select(*_BATCH).where(batches.c.batch_no == batch_no)
    return BatchRow(*(await tx.session.execute(statement)).one())


async def abandon(tx: Transaction, batch_no: int) -> None:
    """Forget a batch that was refused."""
    await tx.session.execute(delete(batches).where(batches.c.batch_no == batch_no, batches.c.status == STAGING))


async def note_online(tx: Transaction, batch_no: int, *, written: int, at: datetime) -> None:
    """Record that the online store has the batch."""
    await tx.session.execute(
        update(batches).where(batches.c.batch_no == batch_no).values(online_written=written, online_at=at)
    )


async def not_online(tx: Transaction, *, before: datetime, limit: int) -> list[BatchRow]:
    """Return committed batches that the online store lacks."""
    statement = (
        select(*_BATCH)
        .where(batches.c.status == COMMITTED, batches.c.online_at.is_(None), batches.c.received_at < before)
        .order_by(batches.c.batch_no)
        .limit(limit)
    )
    return [BatchRow(*row) for row in (await tx.session.execute(statement)).all()]


async def add_file(tx: Transaction, file: HistoryFileRow) -> None:
    """Put a file into the manifest."""
    values = {name: getattr(file, name) for name in HistoryFileRow.__dataclass_fields__}
    await tx.session.execute(insert(history_files).values(**values))


async def files_of(tx: Transaction, view: str, *, until: datetime | None = None) -> list[HistoryFileRow]:
    """Return a view's history in ingest order, of batches received up to a time."""
    statement = (
        select(*_FILE)
        .join(batches, batches.c.batch_no == history_files.c.batch_no)
        .where(history_files.c.view == view)
        .order_by(history_files.c.batch_no)
    )
    if until is not None:
        statement = statement.where(batches.c.received_at <= until)
    return [HistoryFileRow(*row) for row in (await tx.session.execute(statement)).all()]


async def file_of(tx: Transaction, batch_no: int) -> HistoryFileRow | None:
    """Return the file of a batch; None when none of its rows was accepted."""
    statement = select(*_FILE).where(history_files.c.batch_no == batch_no)
    row = (await tx.session.execute(statement)).first()
    return None if row is None else HistoryFileRow(*row)


async def quarantine(tx: Transaction, rows: Sequence[QuarantinedRow]) -> None:
    """Keep rows that were not accepted."""
    names = list(QuarantinedRow.__dataclass_fields__)
    for start in range(0, len(rows), _QUARANTINE_CHUNK):
        chunk = [{name: getattr(row, name) for name in names} for row in rows[start : start + _QUARANTINE_CHUNK]]
        await tx.session.execute(insert(quarantined_rows), chunk)


async def quarantined(tx: Transaction, view: str, *, after: tuple[int, int] | None, limit: int) -> list[QuarantinedRow]:
    """Return a page of quarantined rows, the newest batch first."""
    statement = (
        select(*_QUARANTINED)
        .where(quarantined_rows.c.view == view)
        .order_by(quarantined_rows.c.batch_no.desc(), quarantined_rows.c.row_number)
        .limit(limit)
    )
    if after is not None:
        batch_no, row_number = after
        later = and_(quarantined_rows.c.batch_no == batch_no, quarantined_rows.c.row_number > row_number)
        statement = statement.where(or_(quarantined_rows.c.batch_no < batch_no, later))
    return [QuarantinedRow(*row) for row in (await tx.session.execute(statement)).all()]


async def recent(tx: Transaction, view: str, *, after: int | None, limit: int) -> list[BatchRow]:
    """Return a page of a view's committed batches, the newest first."""
    statement = (
        select(*_BATCH)
        .where(batches.c.view == view, batches.c.status == COMMITTED)
        .order_by(batches.c.batch_no.desc())
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(batches.c.batch_no < after)
    return [BatchRow(*row) for row in (await tx.session.execute(statement)).all()]


async def forget_online(tx: Transaction, view: str) -> None:
    """Have a view's whole history written to the online store again."""
    await tx.session.execute(
        update(batches).where(batches.c.view == view, batches.c.status == COMMITTED).values(online_at=None)
    )
