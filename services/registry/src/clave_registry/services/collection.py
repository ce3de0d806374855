"""Garbage collection of blobs: what nothing names, for longer than the retention, is removed. What is named never is.

A blob is named by a manifest, by an artifact of a run, or by a legal hold. Its row is locked and deleted first, its
bytes are removed before that transaction commits, and an upload of the same bytes waits for the row and then looks
whether they are still there. A crash in between leaves a row without bytes, which nothing names and the next upload or
the next collection puts right; it never leaves a name without bytes.
"""

import asyncio
from datetime import timedelta

from clave_common.background import Background
from clave_common.blobstore import BlobStore
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.logs import get_logger

from clave_registry.storage import blobs

LOOP_NAME = "collection"
_BATCH_BLOBS = 200
_log = get_logger(__name__)


class Collection:
    """Removes blobs that nothing names."""

    def __init__(self, database: Database, store: BlobStore, clock: Clock, *, retention_s: float) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._retention = timedelta(seconds=retention_s)

    async def collect(self) -> int:
        """Remove one batch.

        Returns:
            Number of blobs removed; 0 when there is nothing left to remove.
        """
        async with self._database.transaction() as tx:
            before = self._clock.now() - self._retention
            digests = await blobs.take_unnamed(tx, before=before, limit=_BATCH_BLOBS)
            for digest in digests:
                await self._store.delete(digest)
        return len(digests)

    async def run(self, background: Background, *, every_s: float) -> None:
        """Collect now and then until cancelled."""
        while True:
            removed = 0
            while found := await self.collect():
                removed += found
            if removed:
                _log.info("blobs_collected", blobs=removed)
            background.healthy(LOOP_NAME)
            await asyncio.sleep(every_s)
