"""A collection that stops in its middle and waits to be killed: ``... DATABASE_URL BLOB_FOLDER``."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clave_common.blobstore import LocalBlobStore
from clave_common.clock import FixedClock
from clave_common.database import Database
from clave_registry.services.collection import Collection, Retention
from clave_registry.services.uploads import Uploads
from clave_registry.storage.mlflow.tables import metadata


class HalfwayStore(LocalBlobStore):
    """Removes three blobs, says so, and never comes back."""

    removed = 0

    async def delete(self, digest: str) -> None:
        if self.removed == 3:
            sys.stdout.write("in the middle\n")
            sys.stdout.flush()
            await asyncio.Event().wait()
        self.removed += 1
        await super().delete(digest)


async def collect(url: str, folder: Path) -> None:
    database = Database(url, metadata, service="registry")
    store, clock = HalfwayStore(folder), FixedClock(datetime.now(UTC) + timedelta(days=8))
    uploads = Uploads(database, store, clock, size_max=1)
    retention = Retention(blobs_s=7 * 86_400, versions_s=7 * 86_400)
    collection = Collection(database, store, clock, retention=retention, uploads=uploads)
    await collection.end_links()
    await collection.collect()


asyncio.run(collect(sys.argv[1], Path(sys.argv[2])))
