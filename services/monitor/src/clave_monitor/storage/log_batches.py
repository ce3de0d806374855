"""Queries on the batches in which predictions go to the Parquet log."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from clave_monitor.storage.tables import column_sets, log_batches, predictions


@dataclass(frozen=True)
class Batch:
    """Predictions of one UTC day, endpoint and column list that make one file."""

    id: int
    day: str
    endpoint: str
    columns: tuple[str, ...]

    @property
    def path(self) -> str:
        """Where the file goes, in the partitioning that DuckDB and Spark read."""
        return f"predictions/day={self.day}/endpoint={self.endpoint}/batch-{self.id:010d}.parquet"


async def backlog(tx: Transaction) -> tuple[int, datetime | None]:
    """Count predictions in no batch, and tell when the oldest came."""
    statement = select(func.count(), func.min(predictions.c.received_at)).where(predictions.c.log_batch.is_(None))
    count, oldest = (await tx.session.execute(statement)).one()
    return int(count), oldest


async def assign(tx: Transaction, *, at: datetime, limit: int) -> int:
    """Put the oldest unlogged predictions into batches; return how many."""
    columns = predictions.c
    statement = (
        select(columns.seq, columns.predicted_at, columns.endpoint, columns.column_set)
        .where(columns.log_batch.is_(None))
        .order_by(columns.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    groups: dict[tuple[str, str, int], list[int]] = {}
    for row in await tx.session.execute(statement):
        day = row.predicted_at.astimezone(UTC).date().isoformat()
        groups.setdefault((day, row.endpoint, row.column_set), []).append(row.seq)
    for group, seqs in groups.items():
        await _create(tx, group, seqs, at=at)
    return sum(len(seqs) for seqs in groups.values())


async def _create(tx: Transaction, group: tuple[str, str, int], seqs: Sequence[int], *, at: datetime) -> None:
    day, endpoint, column_set = group
    statement = insert(log_batches).values(
        day=day, endpoint=endpoint, column_set=column_set, rows=len(seqs), assigned_at=at
    )
    batch_id = (await tx.session.execute(statement.returning(log_batches.c.id))).scalar_one()
    await tx.session.execute(
        update(predictions).where(predictions.c.seq == func.any(list(seqs))).values(log_batch=batch_id)
    )


async def unwritten(tx: Transaction, *, limit: int) -> list[Batch]:
    """List batches whose file is not known to be written, oldest first."""
    statement = (
        select(log_batches.c.id, log_batches.c.day, log_batches.c.endpoint, column_sets.c.columns)
        .join(column_sets, column_sets.c.id == log_batches.c.column_set)
        .where(log_batches.c.written_at.is_(None))
        .order_by(log_batches.c.id)
        .limit(limit)
    )
    return [Batch(row.id, row.day, row.endpoint, tuple(row.columns)) for row in await tx.session.execute(statement)]


async def rows_of(tx: Transaction, batch: Batch) -> list[dict[str, Any]]:
    """Give a batch's predictions in the order of their arrival."""
    columns = predictions.c
    statement = (
        select(
            columns.prediction_id,
            columns.row,
            columns.model,
            columns.model_version,
            columns.arm,
            columns.tenant,
            columns.principal,
            columns.protocol,
            columns.predicted_at,
            columns.score,
            columns.label,
            columns.latency_ms,
            columns.error,
            columns.entities,
            columns.features,
        )
        .where(columns.log_batch == batch.id)
        .order_by(columns.seq)
    )
    return [dict(row) for row in (await tx.session.execute(statement)).mappings()]


async def mark_written(tx: Transaction, batch: Batch, *, at: datetime) -> None:
    """Remember that a batch's file is in place."""
    await tx.session.execute(update(log_batches).where(log_batches.c.id == batch.id).values(written_at=at))
