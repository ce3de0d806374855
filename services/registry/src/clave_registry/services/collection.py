"""Garbage collection: what nothing names, for longer than its retention, is removed. What is named never is.

A blob is named by a manifest, by an artifact of a run, or by a legal hold. A manifest is named by every version that is
not deleted, by one that was deleted less than its retention ago, and by one under hold. A blob's row is locked and
deleted first, its bytes are removed before that transaction commits, and an upload of the same bytes waits for the row
and then looks whether they are still there. A crash in between leaves a row without bytes, which nothing names and the
next upload or the next collection puts right; it never leaves a name without bytes. Uploads that were never finished
are swept after a day.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from clave_common.background import Background
from clave_common.blobstore import BlobStore
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.logs import get_logger

from clave_registry.services.uploads import KEPT_S, Uploads
from clave_registry.storage import blobs

LOOP_NAME = "collection"
_BATCH_BLOBS = 200
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept that nothing names.

    Attributes:
        blobs_s: Seconds since a blob was last uploaded.
        versions_s: Seconds since a version was deleted, for its files.
    """

    blobs_s: float
    versions_s: float


class Collection:
    """Removes what nothing names."""

    def __init__(
        self, database: Database, store: BlobStore, clock: Clock, *, retention: Retention, uploads: Uploads
    ) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._retention = retention
        self._uploads = uploads

    async def collect(self) -> int:
        """Remove one batch of blobs.

        Returns:
            Number of blobs removed; 0 when there is nothing left to remove.
        """
        async with self._database.transaction() as tx:
            before = self._clock.now() - timedelta(seconds=self._retention.blobs_s)
            digests = await blobs.take_unnamed(tx, before=before, limit=_BATCH_BLOBS)
            for digest in digests:
                await self._store.delete(digest)
        return len(digests)

    async def forget_manifests(self) -> int:
        """Let go of the files of versions that were deleted long enough ago; return how many manifests it were."""
        async with self._database.transaction() as tx:
            before = self._clock.now() - timedelta(seconds=self._retention.versions_s)
            return await blobs.forget_manifests(tx, deleted_before=before)

    async def sweep(self) -> int:
        """Forget uploads that were never finished; return how many objects it were."""
        return await self._uploads.forget_older(before=self._clock.now() - timedelta(seconds=KEPT_S))

    async def run(self, background: Background, *, every_s: float) -> None:
        """Collect now and then until cancelled."""
        while True:
            removed, manifests, unfinished = 0, await self.forget_manifests(), await self.sweep()
            while found := await self.collect():
                removed += found
            if removed or manifests or unfinished:
                _log.info("collected", blobs=removed, manifests=manifests, unfinished=unfinished)
            background.healthy(LOOP_NAME)
            await asyncio.sleep(every_s)
