"""Operations on blobs: bytes are stored once, verified, and never change.

Whoever knows a digest does not have the bytes. A tenant reads and names the blobs that it sent; one that only others
sent is to it like one that is nowhere: the same answer, and the same work when it is sent.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from clave_common.access import Caller
from clave_common.blobstore import CHUNK_BYTES, BlobRef, BlobStore, checked_digest, missing_blob
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import InvalidArgument, Unavailable

from clave_registry.services.governance import reach_of, record_change, tenant_of
from clave_registry.storage import blobs

RANGE_UNIT = "bytes="


class RangeNotSatisfiable(InvalidArgument):
    """The range asked for lies outside of the blob."""

    code = "range_not_satisfiable"


@dataclass(frozen=True, slots=True)
class Slice:
    """Part of a blob: bytes `start` to before `end` of `size`."""

    start: int
    end: int
    size: int

    @property
    def whole(self) -> bool:
        """Whether it is all of the blob."""
        return self.start == 0 and self.end == self.size


class Blobs:
    """Store and give bytes by their digest."""

    def __init__(self, database: Database, store: BlobStore, clock: Clock, *, size_max: int) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._size_max = size_max

    async def put(self, caller: Caller, digest: str, chunks: AsyncIterator[bytes]) -> BlobRef:
        """Store a stream of bytes under their sha256; what the caller's tenant sent before is not written again.

        Raises:
            DigestMismatch: The bytes hash to something else.
            PayloadTooLarge: There are too many.
        """
        tenant = tenant_of(caller)
        known = await self._size(checked_digest(digest), reach=tenant)
        if known is None:
            ref = await self._store.put(coalesced(chunks), digest=digest, size_max=self._size_max)
        else:
            async for _ in chunks:
                pass
            ref = BlobRef(digest, known)
        async with self._database.transaction() as tx:
            await note_stored(tx, self._store, ref, tenant=tenant, at=self._clock.now())
            if known is None:
                await record_change(tx, caller, "registry:blob.write", f"blobs/{digest}", tenant=tenant, size=ref.size)
        return ref

    async def size(self, caller: Caller, digest: str) -> int:
        """Tell the size in bytes of a blob that the caller's tenant sent; services reach everybody's.

        Raises:
            NotFound: It is not stored, or only others sent it.
        """
        size = await self._size(checked_digest(digest), reach=reach_of(caller))
        if size is None:
            raise missing_blob(digest)
        return size

    async def _size(self, digest: str, *, reach: str | None) -> int | None:
        if reach is not None:
            async with self._database.transaction() as tx:
                if not await blobs.is_linked(tx, reach, digest):
                    return None
        return await self._store.size(digest)

    def read(self, digest: str, part: Slice) -> AsyncIterator[bytes]:
        """Stream a part of a blob whose size the caller was told."""
        return self._store.read(digest, start=part.start, end=part.end)


async def note_stored(tx: Transaction, store: BlobStore, ref: BlobRef, *, tenant: str, at: datetime) -> None:
    """Record a blob that a tenant uploaded, unless it was collected between its upload and now.

    Raises:
        Unavailable: It was; send it again.
    """
    await blobs.note(tx, tenant, ref.digest, ref.size, at=at)
    if await store.size(ref.digest) is None:
        raise Unavailable(
            "These bytes were being removed while they came in; send them again.",
            code="blob_collected",
            retry_after_s=1.0,
        )


async def coalesced(chunks: AsyncIterator[bytes], *, size: int = CHUNK_BYTES) -> AsyncIterator[bytes]:
    """Join small chunks to ones of about `size` bytes: each costs the store a hop to a thread."""
    held: list[bytes] = []
    length = 0
    async for chunk in chunks:
        held.append(chunk)
        length += len(chunk)
        if length >= size:
            yield b"".join(held)
            held, length = [], 0
    if length:
        yield b"".join(held)


def asked_slice(header: str | None, size: int) -> Slice:
    """Read a ``Range`` header of one range (RFC 9110, section 14); anything else asks for the whole.

    Raises:
        RangeNotSatisfiable: The range starts after the last byte.
    """
    whole = Slice(0, size, size)
    if header is None or not header.startswith(RANGE_UNIT) or "," in header:
        return whole
    first, dash, last = header.removeprefix(RANGE_UNIT).strip().partition("-")
    if not dash or not (first + last).isdecimal():
        return whole
    if not first:
        part = Slice(max(0, size - int(last)), size, size)
    else:
        part = Slice(int(first), min(size, int(last) + 1) if last else size, size)
    if part.start >= part.end:
        raise RangeNotSatisfiable(f"The blob has {size} bytes.", size=size)
    return part
