"""The prediction log: every prediction once in Parquet, by day and endpoint.

A batch is assigned in one transaction and named by its number; its file may then be written any number of times with
the same content. Killed between the two, the next round writes the file again: nothing is lost, nothing is doubled.
"""

import asyncio
import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
from clave_common.background import Background
from clave_common.clock import Clock
from clave_common.database import Database

from clave_monitor.runtime.log_store import LogStore
from clave_monitor.storage import log_batches, monitors, predictions
from clave_monitor.storage.log_batches import Batch

LOOP_NAME = "prediction_log"
_BATCH_ROWS_MAX = 10_000
_BATCH_ROWS_MIN = 1_000
_AGE_MAX = timedelta(seconds=60)
_FORGET_ROWS = 5_000
_PLAIN = (
    "prediction_id",
    "row",
    "model",
    "model_version",
    "arm",
    "tenant",
    "principal",
    "protocol",
    "predicted_at",
    "score",
    "label",
    "latency_ms",
    "error",
)


class PredictionLog:
    """Moves predictions to the log and forgets them after their time."""

    def __init__(self, database: Database, store: LogStore, clock: Clock, *, retention: timedelta) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._retention = retention

    async def run(self, background: Background) -> None:
        """Log and forget until cancelled."""
        while True:
            await self.flush()
            await self.forget()
            background.healthy(LOOP_NAME)
            await asyncio.sleep(5.0)

    async def flush(self, *, force: bool = False) -> int:
        """Write what is due.

        Args:
            force: Do not wait for a full batch.

        Returns:
            Files written.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            count, oldest = await log_batches.backlog(tx)
            due = count >= _BATCH_ROWS_MIN or (oldest is not None and oldest <= now - _AGE_MAX)
            if due or (force and count):
                await log_batches.assign(tx, at=now, limit=_BATCH_ROWS_MAX)
            batches = await log_batches.unwritten(tx, limit=100)
        for batch in batches:
            await self._write(batch)
        return len(batches)

    async def _write(self, batch: Batch) -> None:
        async with self._database.transaction() as tx:
            rows = await log_batches.rows_of(tx, batch)
        data = await asyncio.to_thread(parquet, rows, batch.columns)
        await self._store.put(batch.path, data)
        async with self._database.transaction() as tx:
            await log_batches.mark_written(tx, batch, at=self._clock.now())

    async def forget(self) -> int:
        """Delete what is older than the retention; return how many predictions."""
        before = self._clock.now() - self._retention
        async with self._database.transaction() as tx:
            gone = await predictions.forget_before(tx, before, limit=_FORGET_ROWS)
            await monitors.forget_windows_before(tx, before)
        return gone


def parquet(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> bytes:
    """Write predictions as one Parquet file.

    Args:
        rows: Predictions of one column list.
        columns: Names of their features; each becomes the column ``feature.<name>``, float32.
    """
    import pyarrow as pa  # noqa: PLC0415 - 60 MB of memory that an idle monitor does without
    from pyarrow.parquet import write_table  # noqa: PLC0415 - see above

    values = [np.frombuffer(row["features"], dtype="<f4") for row in rows]
    matrix = np.stack(values) if rows else np.zeros((0, len(columns)), dtype=np.float32)
    table: dict[str, Any] = {name: pa.array([row[name] for row in rows]) for name in _PLAIN}
    table["entities"] = pa.array(
        [None if r["entities"] is None else orjson.dumps(r["entities"]).decode() for r in rows]
    )
    for position, name in enumerate(columns):
        column = matrix[:, position]
        table[f"feature.{name}"] = pa.array(column, mask=np.array([math.isnan(v) for v in column.tolist()]))
    sink = pa.BufferOutputStream()
    write_table(pa.table(table), sink, compression="zstd")
    return bytes(sink.getvalue())
