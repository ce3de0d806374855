"""Garbage collection: what nothing names, for longer than its retention, is removed. What is named never is.

A blob is stored once and linked to each tenant that sent it. A link ends when nothing of its tenant names the blob: no
version's manifest, no artifact of a run, no legal hold, no upload less than its retention ago. A version names its
manifest until it is deleted, for its retention after that, and while it is under hold. The blob goes with the last of
its links. A blob's row is locked and deleted first, its bytes are removed before that transaction commits, and an
upload of the same bytes waits for the row and then looks whether they are still there. A crash in between leaves a row
without bytes, which nothing names and the next upload or the next collection puts right; it never leaves a name without
bytes. Uploads that were never finished are swept after a day.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from clave_common.background import Background
from clave_common.blobstore import BlobStore
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.logs import get_logger

from clave_registry.services.uploads import KEPT_S, Uploads
from clave_registry.storage import blobs

LOOP_NAME = "collection"
_BATCH_BLOBS = 200
_BATCH_LINKS = 200
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
        """Remove one batch of blobs to which no tenant is linked.

        Returns:
            Number of blobs removed; 0 when there is nothing left to remove.
        """
        async with self._database.transaction() as tx:
            digests = await blobs.take_unlinked(tx, before=self._ago(self._retention.blobs_s), limit=_BATCH_BLOBS)
            for digest in digests:
                await self._store.delete(digest)
        return len(digests)

    async def end_links(self) -> int:
        """Let tenants go of one batch of blobs that they name no more; return how many links it were."""
        async with self._database.transaction() as tx:
            return await blobs.end_links(
                tx,
                before=self._ago(self._retention.blobs_s),
                deleted_before=self._ago(self._retention.versions_s),
                limit=_BATCH_LINKS,
            )

    def _ago(self, seconds: float) -> datetime:
        return self._clock.now() - timedelta(seconds=seconds)

    async def forget_manifests(self) -> int:
        """Let go of the files of versions that were deleted long enough ago; return how many manifests it were."""
        async with self._database.transaction() as tx:
            return await blobs.forget_manifests(tx, deleted_before=self._ago(self._retention.versions_s))

    async def sweep(self) -> int:
        """Forget uploads that were never finished; return how many objects it were."""
        return await self._uploads.forget_older(before=self._ago(KEPT_S))

    async def run(self, background: Background, *, every_s: float) -> None:
        """Collect now and then until cancelled."""
        while True:
            manifests, unfinished = await self.forget_manifests(), await self.sweep()
            links, removed = await _until_nothing(self.end_links), await _until_nothing(self.collect)
            if links or removed or manifests or unfinished:
                _log.info("collected", blobs=removed, links=links, manifests=manifests, unfinished=unfinished)
            background.healthy(LOOP_NAME)
            await asyncio.sleep(every_s)


async def _until_nothing(batch: Callable[[], Awaitable[int]]) -> int:
    total = 0
    while found := await batch():
        total += found
    return total
