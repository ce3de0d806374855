"""Uploads that come in parts, and can be resumed.

Each part is stored as it arrives and sent again by itself when it was cut; the whole is put together, hashed and stored
once at the end. Memory stays flat; what is never finished is swept after a day.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from clave_common.access import Caller
from clave_common.blobstore import BlobRef, PartStore, checked_digest
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.errors import InvalidArgument, NotFound, PayloadTooLarge
from clave_common.ids import new_id
from sqlalchemy import RowMapping

from clave_registry.services.blobs import coalesced, note_stored
from clave_registry.services.governance import record_change, tenant_of
from clave_registry.storage import uploads

PARTS_MAX = 10_000
KEPT_S = 86_400.0


class PartsMissing(InvalidArgument):
    """An upload cannot be finished: some parts did not come."""

    code = "parts_missing"


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload on its way.

    Attributes:
        digest: What the whole must hash to; None where the sender does not know.
        path: Artifact path that the whole is for; None for a blob by itself.
        parts: Number of parts that were announced.
        there: Size in bytes of the parts that are stored, by number.
    """

    id: str
    digest: str | None
    path: str | None
    parts: int
    there: dict[int, int]
    finished: BlobRef | None


class Uploads:
    """Take blobs in parts."""

    def __init__(self, database: Database, store: PartStore, clock: Clock, *, size_max: int) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._size_max = size_max

    async def begin(self, caller: Caller, *, parts: int, digest: str | None = None, path: str | None = None) -> Upload:
        """Begin an upload, or find the one of the same bytes that the same caller left unfinished.

        Raises:
            InvalidArgument: There are not 1 to 10,000 parts, or the digest is none.
        """
        if not 1 <= parts <= PARTS_MAX:
            raise InvalidArgument(f"An upload has 1 to {PARTS_MAX} parts.", field="parts", limit=PARTS_MAX)
        if digest is not None:
            checked_digest(digest)
        tenant = tenant_of(caller)
        async with self._database.transaction() as tx:
            known = None
            if digest is not None:
                known = await uploads.unfinished_of(tx, tenant, digest, by=caller.acting_for, parts=parts)
            if known is None:
                upload = new_id("upl")
                values = {"id": upload, "tenant": tenant, "path": path, "digest": digest, "parts": parts}
                now = self._clock.now()
                await uploads.add(tx, {**values, "created_by": caller.acting_for, "created_at": now})
                await record_change(tx, caller, "registry:blob.write", f"uploads/{upload}", tenant=tenant, parts=parts)
                return Upload(upload, digest, path, parts, {}, None)
        return _upload(known, await self._store.parts(known["id"]))

    async def get(self, caller: Caller, upload: str) -> Upload:
        """Tell which parts are there; NotFound when there is no such upload."""
        row = await self._row(caller, upload)
        return _upload(row, await self._store.parts(row["id"]))

    async def _row(self, caller: Caller, upload: str) -> RowMapping:
        async with self._database.transaction() as tx:
            row = await uploads.find(tx, tenant_of(caller), upload)
        if row is None:
            raise NotFound(f"There is no upload '{upload[:80]}'. Begin a new one.", code="upload_not_found")
        return row

    async def put_part(self, caller: Caller, upload: str, number: int, chunks: AsyncIterator[bytes]) -> int:
        """Store a part, instead of one of the same number; return its size in bytes.

        Raises:
            InvalidArgument: The upload has fewer parts, or is finished.
        """
        row = await self._row(caller, upload)
        if not 1 <= number <= row["parts"] or row["finished_digest"] is not None:
            raise InvalidArgument(f"This upload takes no part {number}.", field="part", parts=row["parts"])
        return await self._store.put_part(row["id"], number, coalesced(chunks), size_max=self._size_max)

    async def put_together(self, caller: Caller, upload: str) -> tuple[Upload, BlobRef]:
        """Store the whole as one blob; again, it gives the same answer.

        The blob is not yet recorded: `finish` does that, in the transaction that gives it a name.

        Raises:
            PartsMissing: Some did not come.
            DigestMismatch: The whole hashes to something else than announced.
            PayloadTooLarge: It has too many bytes.
        """
        found = await self.get(caller, upload)
        if found.finished is not None:
            return found, found.finished
        missing = [number for number in range(1, found.parts + 1) if number not in found.there]
        if missing:
            shown = ", ".join(str(number) for number in missing[:20])
            raise PartsMissing(f"Send these parts first: {shown}.", parts=missing[:1000])
        if sum(found.there.values()) > self._size_max:
            raise PayloadTooLarge(f"A blob may have at most {self._size_max} bytes.", limit=self._size_max)
        return found, await self._store.put(self._whole(found), digest=found.digest, size_max=self._size_max)

    async def _whole(self, upload: Upload) -> AsyncIterator[bytes]:
        for number in range(1, upload.parts + 1):
            async for chunk in self._store.read_part(upload.id, number):
                yield chunk

    async def finish(self, caller: Caller, upload: str) -> BlobRef:
        """Store the whole as a blob by itself, record it, and forget the parts."""
        tenant = tenant_of(caller)
        found, ref = await self.put_together(caller, upload)
        async with self._database.transaction() as tx:
            await note_stored(tx, self._store, ref, tenant=tenant, at=self._clock.now())
            await uploads.finish(tx, found.id, digest=ref.digest, size=ref.size)
            path = f"blobs/{ref.digest}"
            await record_change(tx, caller, "registry:blob.write", path, tenant=tenant, size=ref.size)
        await self._store.drop_parts(found.id)
        return ref

    async def abort(self, caller: Caller, upload: str) -> None:
        """Forget an upload and its parts."""
        row = await self._row(caller, upload)
        await self._store.drop_parts(row["id"])
        async with self._database.transaction() as tx:
            await uploads.remove(tx, row["id"])
            await record_change(tx, caller, "registry:blob.write", f"uploads/{upload}", tenant=tenant_of(caller))

    async def forget_older(self, *, before: datetime) -> int:
        """Forget uploads that began before a time, and everything unfinished in the store."""
        async with self._database.transaction() as tx:
            await uploads.remove_older(tx, before=before)
        return await self._store.sweep(before=before)


def _upload(row: RowMapping, there: dict[int, int]) -> Upload:
    done = row["finished_digest"]
    finished = BlobRef(done, int(row["finished_size"])) if done is not None else None
    return Upload(row["id"], row["digest"], row["path"], row["parts"], there, finished)
