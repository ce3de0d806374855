"""Blobs as objects of an S3-compatible store, through `obstore`; see `blobstore` for what a blob store promises.

Credentials, region and endpoint come from the usual AWS variables. An object is uploaded in parts under a temporary
key while it is hashed, and copied inside the store to the key that its digest names; a reader of that key never sees
half an object.
"""

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store, from_url

from clave_common.blobstore import (
    CHUNK_BYTES,
    BlobRef,
    blob_key,
    checked_digest,
    missing_blob,
    missing_part,
    part_key,
    require_digest,
    require_size,
)
from clave_common.errors import Unavailable

if TYPE_CHECKING:
    from obstore.store import RetryConfig

# Parts of an upload that are on their way to the store at once; each holds 5 to 10 MiB.
_PARTS_AT_ONCE = 3
# A caller would rather hear that the store is away than wait three minutes for it, the library's own patience.
_RETRIES: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
_READ_BYTES = 4 * CHUNK_BYTES


class ObjectBlobStore:
    """Blobs as objects of an S3-compatible store."""

    def __init__(self, url: str) -> None:
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        self._store = from_url(url, client_options={"allow_http": plain}, retry_config=_RETRIES)

    async def put(
        self, chunks: AsyncIterator[bytes], *, digest: str | None = None, size_max: int | None = None
    ) -> BlobRef:
        """Upload in parts under a temporary key while hashing, then copy to the blob's own key."""
        if digest is not None:
            checked_digest(digest)
        partial = f"partial/{uuid4().hex}"
        try:
            with _answering():
                ref = await self._receive(partial, chunks, size_max)
                require_digest(ref, digest)
                # Also where it is stored: that others sent it before must not show in how long this takes.
                await obstore.copy_async(self._store, partial, blob_key(ref.digest))
        finally:
            await self._forget(partial)
        return ref

    async def _receive(self, key: str, chunks: AsyncIterator[bytes], size_max: int | None) -> BlobRef:
        hasher, size = hashlib.sha256(), 0
        async with obstore.open_writer_async(self._store, key, max_concurrency=_PARTS_AT_ONCE) as writer:
            async for chunk in chunks:
                size += len(chunk)
                require_size(size, size_max)
                hasher.update(chunk)
                await writer.write(chunk)
        return BlobRef(hasher.hexdigest(), size)

    async def _forget(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError, BaseError):
            await obstore.delete_async(self._store, key)

    async def size(self, digest: str) -> int | None:
        """Ask for the object's head."""
        with _answering():
            try:
                meta = await obstore.head_async(self._store, blob_key(digest))
            except FileNotFoundError:
                return None
        return int(meta["size"])

    async def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Read in ranges."""
        total = await self.size(digest)
        if total is None:
            raise missing_blob(digest)
        stop = min(total, end if end is not None else total)
        async for chunk in self._ranges(blob_key(digest), start, stop):
            yield chunk

    async def _ranges(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        for position in range(start, stop, _READ_BYTES):
            with _answering():
                part = await obstore.get_range_async(
                    self._store, key, start=position, end=min(position + _READ_BYTES, stop)
                )
            yield bytes(part)

    async def delete(self, digest: str) -> None:
        """Delete the object."""
        with _answering(), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._store, blob_key(digest))

    async def put_part(self, upload: str, number: int, chunks: AsyncIterator[bytes], *, size_max: int) -> int:
        """Upload under a key of its own, then rename."""
        final = part_key(upload, number)
        partial = f"partial/{uuid4().hex}"
        try:
            with _answering():
                ref = await self._receive(partial, chunks, size_max)
                await obstore.copy_async(self._store, partial, final)
        finally:
            await self._forget(partial)
        return ref.size

    async def parts(self, upload: str) -> dict[int, int]:
        """List the objects."""
        return {int(key.rpartition("/")[2]): size for key, size, _ in await self._listed(f"{part_key(upload)}/")}

    async def _listed(self, prefix: str) -> list[tuple[str, int, datetime]]:
        found: list[tuple[str, int, datetime]] = []
        with _answering():
            async for batch in obstore.list(self._store, prefix=prefix):
                found += [(str(meta["path"]), int(meta["size"]), meta["last_modified"]) for meta in batch]
        return found

    async def read_part(self, upload: str, number: int) -> AsyncIterator[bytes]:
        """Read in ranges."""
        key = part_key(upload, number)
        with _answering():
            try:
                size = int((await obstore.head_async(self._store, key))["size"])
            except FileNotFoundError as error:
                raise missing_part(upload, number) from error
        async for chunk in self._ranges(key, 0, size):
            yield chunk

    async def drop_parts(self, upload: str) -> None:
        """Delete the objects."""
        for key, _, _ in await self._listed(f"{part_key(upload)}/"):
            await self._forget(key)

    async def sweep(self, *, before: datetime) -> int:
        """Delete objects that were written before."""
        old = [key for key, _, at in await self._listed("partial/") if at < before]
        for key in old:
            await self._forget(key)
        return len(old)

    async def read_url(self, digest: str, *, expires_s: float) -> str | None:
        """Sign a GET, where the store can."""
        return await self._signed("GET", blob_key(digest), expires_s)

    async def part_url(self, upload: str, number: int, *, expires_s: float) -> str | None:
        """Sign a PUT, where the store can."""
        return await self._signed("PUT", part_key(upload, number), expires_s)

    async def _signed(self, method: Literal["GET", "PUT"], key: str, expires_s: float) -> str | None:
        if not isinstance(self._store, S3Store | GCSStore | AzureStore):
            return None
        with _answering():
            return str(await obstore.sign_async(self._store, method, key, timedelta(seconds=expires_s)))


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Turn the store's failures into one refusal."""
    try:
        yield
    except BaseError as error:
        raise Unavailable("The object store does not answer.", code="blob_store_unavailable") from error
