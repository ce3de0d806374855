"""The prediction log: every prediction once in Parquet, by day and endpoint.

A batch is assigned in one transaction and named by its number; its file may then be written any number of times with
the same content. Killed between the two, the next round writes the file again: nothing is lost, nothing is doubled.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
from clave_common.background import Background
from clave_common.clock import Clock
from clave_common.database import Database

from clave_monitor.runtime import arrow
from clave_monitor.runtime.log_store import LogStore
from clave_monitor.storage import log_batches, monitors, predictions
from clave_monitor.storage.log_batches import Batch

LOOP_NAME = "prediction_log"
_BATCH_ROWS_MAX = 10_000
_BATCH_ROWS_MIN = 1_000
_AGE_MAX = timedelta(seconds=60)
_FORGET_ROWS = 5_000
_TEXTS = ("prediction_id", "model", "arm", "tenant", "principal", "protocol", "error")


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
        rows: Predictions of one column list, at least one.
        columns: Names of their features; each becomes the column ``feature.<name>``, float32, missing as null.
    """
    import pyarrow as pa  # noqa: PLC0415 - 40 MB of memory that an idle monitor does without

    table = {name: arrow.texts([row[name] for row in rows]) for name in _TEXTS}
    for name, width, kind in (
        ("row", np.int32, pa.int32()),
        ("model_version", np.int32, pa.int32()),
        ("score", np.float64, pa.float64()),
        ("label", np.int16, pa.int16()),
        ("latency_ms", np.float64, pa.float64()),
    ):
        known = np.array([row[name] is not None for row in rows])
        values = np.array([0 if row[name] is None else row[name] for row in rows], dtype=width)
        table[name] = arrow.numbers(values, kind, known=known)
    moments = np.array([round(row["predicted_at"].timestamp() * 1_000_000) for row in rows], dtype=np.int64)
    table["predicted_at"] = arrow.numbers(moments, pa.timestamp("us", tz="UTC"))
    entities = [None if row["entities"] is None else orjson.dumps(row["entities"]).decode() for row in rows]
    table["entities"] = arrow.texts(entities)
    matrix = np.stack([np.frombuffer(row["features"], dtype="<f4") for row in rows])
    for position, name in enumerate(columns):
        values = matrix[:, position]
        table[f"feature.{name}"] = arrow.numbers(values, pa.float32(), known=~np.isnan(values))
    return arrow.parquet(table)
