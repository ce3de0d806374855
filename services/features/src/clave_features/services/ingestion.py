"""Ingestion: an upload becomes history and online values, or nothing at all.

The order makes every crash harmless. (1) The batch is reserved under its content digest; a retry finds the
reservation and does the same work under the same number and time. (2) The accepted rows are stored as a blob named by
its digest. (3) One transaction puts the blob into the manifest, the refused rows into quarantine and settles the
batch. (4) The online store takes the newest rows, guarded by their order; the batch notes it. What crashed between 3
and 4 is written by the follower.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

from clave_common.access import Caller
from clave_common.background import Background
from clave_common.blobstore import BlobRef, BlobStore
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.ids import new_id
from clave_contracts import features as wire
from clave_contracts.client import file_chunks
from clave_contracts.events import AuditEntry, Event

from clave_features.domain.definitions import Entity, View
from clave_features.domain.errors import (
    BatchRefused,
    ColumnsMissing,
    ColumnsUnknown,
    IdempotencyKeyReused,
    OnlineStoreAway,
    TableEmpty,
    TableMalformed,
)
from clave_features.runtime.engine import Engine, discard
from clave_features.runtime.history import HistoryFile, HistoryFiles, latest_rows
from clave_features.runtime.judging import Upload, Verdict, judge
from clave_features.runtime.online_store import OnlineStore
from clave_features.runtime.staging import Form
from clave_features.services.catalogue import Catalogues
from clave_features.storage import batches
from clave_features.storage.batches import BatchRow, HistoryFileRow, QuarantinedRow

LOOP_NAME: Final = "online_follower"
_FOLLOW_S: Final = 5.0
_FOLLOW_BATCHES: Final = 50
_REFUSALS: Final = (BatchRefused, ColumnsMissing, ColumnsUnknown, TableEmpty, TableMalformed)


@dataclass(frozen=True, slots=True)
class ReceivedTable:
    """An upload on local disk.

    Attributes:
        digest: sha256 of its bytes.
    """

    path: Path
    digest: str
    form: Form
    ignore_unknown: bool = False
    idempotency_key: str | None = None


class Ingestion:
    """Takes tables in."""

    def __init__(
        self,
        *,
        database: Database,
        catalogues: Catalogues,
        engine: Engine,
        blobs: BlobStore,
        files: HistoryFiles,
        online: OnlineStore,
        clock: Clock,
        future_tolerance: timedelta,
        quarantine_rows_max: int,
    ) -> None:
        self._database = database
        self._catalogues = catalogues
        self._engine = engine
        self._blobs = blobs
        self._files = files
        self._online = online
        self._clock = clock
        self._future_tolerance = future_tolerance
        self._quarantine_rows_max = quarantine_rows_max

    async def ingest(self, view_name: str, table: ReceivedTable, by: Caller) -> wire.IngestReport:
        """Validate a table, keep what passes, quarantine the rest.

        Raises:
            ViewNotFound: There is no such view.
            TableMalformed, TableEmpty, ColumnsMissing, ColumnsUnknown: It is not a table of this view.
            BatchRefused: Too many values are missing.
            IdempotencyKeyReused: The key came before with another content.
        """
        catalogue = self._catalogues.current
        view = catalogue.repository.view(view_name)
        batch = await self._claim(view, catalogue.version(view_name), table, by)
        if batch.content_digest != table.digest:
            raise IdempotencyKeyReused(
                "This Idempotency-Key came before with another table; use a new key.", field="Idempotency-Key"
            )
        if batch.status == batches.COMMITTED:
            return report(batch, duplicate=True)
        settled, duplicate = await self._settle(batch, view, catalogue.repository.entity(view.entity), table, by)
        if not duplicate:
            settled = await self._write_online(settled)
        return report(settled, duplicate=duplicate)

    async def _claim(self, view: View, version: int, table: ReceivedTable, by: Caller) -> BatchRow:
        values = {
            "id": new_id("batch"),
            "view": view.name,
            "view_version": version,
            "content_digest": table.digest,
            "idempotency_key": table.idempotency_key,
            "received_at": self._clock.now(),
            "received_by": by.acting_for,
        }
        async with self._database.transaction() as tx:
            return await batches.claim(tx, values)

    async def _settle(
        self, batch: BatchRow, view: View, entity: Entity, table: ReceivedTable, by: Caller
    ) -> tuple[BatchRow, bool]:
        target = table.path.with_name(f"{uuid4().hex}.parquet")
        upload = Upload(
            path=table.path,
            form=table.form,
            batch_no=batch.batch_no,
            received_at=batch.received_at,
            future_until=batch.received_at + self._future_tolerance,
            target=target,
            ignore_unknown=table.ignore_unknown,
            quarantine_rows_max=self._quarantine_rows_max,
        )
        try:
            verdict = await self._engine.run(judge, self._engine, upload, view, entity)
            blob = await self._blobs.put(file_chunks(str(target))) if verdict.accepted else None
        except _REFUSALS:
            async with self._database.transaction() as tx:
                await batches.abandon(tx, batch.batch_no)
            raise
        finally:
            await asyncio.to_thread(discard, target)
        return await self._commit(batch, verdict, blob, by)

    async def _commit(
        self, batch: BatchRow, verdict: Verdict, blob: BlobRef | None, by: Caller
    ) -> tuple[BatchRow, bool]:
        values = {
            "rows": verdict.rows,
            "accepted": verdict.accepted,
            "quarantined": verdict.rows - verdict.accepted,
            "reasons": [
                {"rule": one.rule, "column": one.column, "rows": one.rows, "reason": one.reason}
                for one in verdict.reasons
            ],
        }
        async with self._database.transaction() as tx:
            settled = await batches.commit(tx, batch.batch_no, values)
            if settled is None:
                return await batches.get(tx, batch.batch_no), True
            if blob is not None and verdict.event_ts_min is not None and verdict.event_ts_max is not None:
                file = HistoryFileRow(
                    batch.batch_no,
                    batch.view,
                    blob.digest,
                    blob.size,
                    verdict.accepted,
                    list(verdict.columns),
                    verdict.event_ts_min,
                    verdict.event_ts_max,
                )
                await batches.add_file(tx, file)
            await batches.quarantine(
                tx,
                [QuarantinedRow(batch.batch_no, row, batch.view, why, what) for row, why, what in verdict.quarantined],
            )
            await tx.emit(_ingested(settled, by))
            await tx.audit(_audit(settled, by))
        return settled, False

    async def _write_online(self, batch: BatchRow) -> BatchRow:
        """Bring a settled batch online; an outage leaves that to the follower."""
        try:
            return await self.bring_online(batch)
        except OnlineStoreAway:
            self._catalogues.online_changed.set()
            return batch

    async def bring_online(self, batch: BatchRow) -> BatchRow:
        """Write a batch's newest rows to the online store and note it.

        Raises:
            OnlineStoreAway: The online store does not answer.
        """
        repository = self._catalogues.current.repository
        view = repository.view(batch.view)
        async with self._database.transaction() as tx:
            file = await batches.file_of(tx, batch.batch_no)
        written = 0
        if file is not None and view.online:
            local = await self._files.local(file.digest, file.columns)
            written = await self._write_latest(view, repository.entity(view.entity), [local])
        async with self._database.transaction() as tx:
            await batches.note_online(tx, batch.batch_no, written=written, at=self._clock.now())
            return await batches.get(tx, batch.batch_no)

    async def _write_latest(self, view: View, entity: Entity, files: list[HistoryFile]) -> int:
        written = 0
        async for rows in self._engine.iterate(latest_rows(self._engine, view, entity, files)):
            written += await self._online.write(view.name, rows, ttl=view.ttl)
        return written

    async def materialize(self, names: list[str] | None, by: Caller) -> dict[str, int]:
        """Rebuild online values from the history.

        Args:
            names: Views; all of them when None.
            by: Who asks.

        Returns:
            Rows written per view; a row that was there already is not written again.

        Raises:
            ViewNotFound: There is no such view.
            OnlineStoreAway: The online store does not answer.
        """
        repository = self._catalogues.current.repository
        views = (
            [view for view in repository.views if view.online] if names is None else [repository.view(n) for n in names]
        )
        written = {}
        for view in views:
            async with self._database.transaction() as tx:
                rows = await batches.files_of(tx, view.name)
            files = [await self._files.local(row.digest, row.columns) for row in rows]
            written[view.name] = await self._write_latest(view, repository.entity(view.entity), files) if files else 0
        async with self._database.transaction() as tx:
            await tx.audit(_entry(by, "features:materialize", "views", written=written))
        return written

    async def follow(self, background: Background) -> None:
        """Write what the online store lacks, until cancelled: after a crash, an outage, a changed definition."""
        woken = self._catalogues.online_changed
        while True:
            woken.clear()
            moved = await self.follow_once()
            background.healthy(LOOP_NAME)
            if moved < _FOLLOW_BATCHES:
                await _wait(woken, _FOLLOW_S)

    async def follow_once(self) -> int:
        """Write one round of batches that the online store lacks; return their number."""
        async with self._database.transaction() as tx:
            waiting = await batches.not_online(tx, before=self._clock.now(), limit=_FOLLOW_BATCHES)
        for batch in waiting:
            await self.bring_online(batch)
        return len(waiting)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _entry(by: Caller, action: str, resource: str, **details: object) -> AuditEntry:
    return AuditEntry(
        service="features",
        actor=by.subject_id,
        on_behalf_of=by.on_behalf_of,
        tenant=by.tenant,
        action=action,
        resource=resource,
        details=dict(details),
    )


def _audit(batch: BatchRow, by: Caller) -> AuditEntry:
    return _entry(
        by,
        "features:data.write",
        f"views/{batch.view}",
        batch=batch.id,
        content_digest=batch.content_digest,
        accepted=batch.accepted,
        quarantined=batch.quarantined,
    )


def _ingested(batch: BatchRow, by: Caller) -> Event:
    return Event(
        type="FeaturesIngested",
        source="features",
        subject=f"views/{batch.view}",
        tenant=by.tenant,
        data={"batch_id": batch.id, "view": batch.view, "accepted": batch.accepted, "quarantined": batch.quarantined},
    )


def report(batch: BatchRow, *, duplicate: bool = False) -> wire.IngestReport:
    """Tell what became of a batch."""
    return wire.IngestReport(
        batch_id=batch.id,
        view=batch.view,
        rows=batch.rows,
        accepted=batch.accepted,
        quarantined=batch.quarantined,
        reasons=[wire.QuarantineReason.model_validate(one) for one in batch.reasons],
        online_written=batch.online_written,
        duplicate=duplicate,
        digest=batch.content_digest,
    )
