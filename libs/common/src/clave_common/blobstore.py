"""Content-addressed bytes: a blob's name is its sha256, so it can be verified, never changed, and stored once.

A local folder is written with plain files and an atomic link; anything else goes through `obstore` (S3 and its kin).
Both hash while they write and never hold a whole blob in memory.
"""

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from clave_common.errors import InvalidArgument, NotFound, PayloadTooLarge, Unavailable

CHUNK_BYTES = 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A stored blob: lower-case hex sha256 and size in bytes."""

    digest: str
    size: int


class DigestMismatch(InvalidArgument):
    """The bytes that arrived are not the bytes that were announced."""

    code = "digest_mismatch"


class BlobStore(Protocol):
    """Where a service keeps its blobs."""

    async def put(
        self, chunks: AsyncIterator[bytes], *, digest: str | None = None, size_max: int | None = None
    ) -> BlobRef:
        """Store a stream of bytes; storing the same bytes again changes nothing.

        Raises:
            DigestMismatch: `digest` was given and the bytes hash to something else; nothing is stored.
            PayloadTooLarge: More than `size_max` bytes came; nothing is stored.
            Unavailable: The store refused (disk full, read-only, S3 away); nothing is stored.
        """
        ...

    async def size(self, digest: str) -> int | None:
        """Return a blob's size in bytes, or None when it is not stored."""
        ...

    def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Stream a blob's bytes from `start` to before `end`; NotFound when it is not stored."""
        ...

    async def delete(self, digest: str) -> None:
        """Remove a blob if it is there (garbage collection only)."""
        ...


def checked_digest(digest: str) -> str:
    """Return the digest if it is 64 lower-case hex characters; raise InvalidArgument otherwise."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument("A blob is named by its sha256: 64 lower-case hexadecimal characters.", field="digest")
    return digest


def _key(digest: str) -> str:
    return f"sha256/{checked_digest(digest)[:2]}/{digest}"


def open_blob_store(url: str) -> BlobStore:
    """Open the store that a URL names: ``file:///folder`` or ``s3://bucket/prefix``."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalBlobStore(Path(unquote(parts.path)))
    return ObjectBlobStore(url)


class LocalBlobStore:
    """Blobs as files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(
        self, chunks: AsyncIterator[bytes], *, digest: str | None = None, size_max: int | None = None
    ) -> BlobRef:
        """Write to a temporary file while hashing, then link it into place."""
        if digest is not None:
            checked_digest(digest)
        partial = self._root / "partial" / uuid4().hex
        try:
            await asyncio.to_thread(partial.parent.mkdir, parents=True, exist_ok=True)
            ref = await self._receive(partial, chunks, size_max)
            _require_digest(ref, digest)
            await asyncio.to_thread(self._settle, partial, self._root / _key(ref.digest))
        except OSError as error:
            raise Unavailable(
                f"The blob store cannot write: {error.strerror or error}. Free space or make the folder writable.",
                code="blob_store_unwritable",
            ) from error
        finally:
            await asyncio.to_thread(_forget_file, partial)
        return ref

    async def _receive(self, path: Path, chunks: AsyncIterator[bytes], size_max: int | None) -> BlobRef:
        hasher, size = hashlib.sha256(), 0
        with path.open("xb") as file:
            async for chunk in chunks:
                size += len(chunk)
                _require_size(size, size_max)
                await asyncio.to_thread(_append, file, hasher, chunk)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        return BlobRef(hasher.hexdigest(), size)

    def _settle(self, partial: Path, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(partial, final)
        except FileExistsError:
            return
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def size(self, digest: str) -> int | None:
        """Look at the file."""
        path = self._root / _key(digest)
        try:
            return (await asyncio.to_thread(path.stat)).st_size
        except FileNotFoundError:
            return None

    def path(self, digest: str) -> Path:
        """Name the file of a blob, for readers in the same process that need a path."""
        return self._root / _key(digest)

    async def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Read the file in chunks."""
        path = self._root / _key(digest)
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError as error:
            raise _missing(digest) from error
        with file:
            file.seek(start)
            left = (end - start) if end is not None else None
            while left is None or left > 0:
                wanted = CHUNK_BYTES if left is None else min(CHUNK_BYTES, left)
                chunk = await asyncio.to_thread(file.read, wanted)
                if not chunk:
                    return
                left = None if left is None else left - len(chunk)
                yield chunk

    async def delete(self, digest: str) -> None:
        """Unlink the file."""
        await asyncio.to_thread((self._root / _key(digest)).unlink, missing_ok=True)


class ObjectBlobStore:
    """Blobs as objects of an S3-compatible store (credentials from the usual AWS variables)."""

    def __init__(self, url: str) -> None:
        from obstore.store import from_url  # noqa: PLC0415 - a large extension only this store needs

        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        self._store = from_url(url, client_options={"allow_http": plain})

    async def put(
        self, chunks: AsyncIterator[bytes], *, digest: str | None = None, size_max: int | None = None
    ) -> BlobRef:
        """Upload in parts under a temporary key while hashing, then copy to the blob's own key."""
        import obstore  # noqa: PLC0415 - see above

        if digest is not None:
            checked_digest(digest)
        partial = f"partial/{uuid4().hex}"
        hasher, size = hashlib.sha256(), 0
        try:
            async with obstore.open_writer_async(self._store, partial) as writer:
                async for chunk in chunks:
                    size += len(chunk)
                    _require_size(size, size_max)
                    hasher.update(chunk)
                    await writer.write(chunk)
            ref = BlobRef(hasher.hexdigest(), size)
            _require_digest(ref, digest)
            if await self.size(ref.digest) is None:
                await obstore.copy_async(self._store, partial, _key(ref.digest))
        except obstore.exceptions.BaseError as error:
            raise Unavailable("The object store does not answer.", code="blob_store_unavailable") from error
        finally:
            await self._forget(partial)
        return ref

    async def _forget(self, key: str) -> None:
        import obstore  # noqa: PLC0415 - see above

        try:
            await obstore.delete_async(self._store, key)
        except (FileNotFoundError, obstore.exceptions.BaseError):
            return

    async def size(self, digest: str) -> int | None:
        """Ask for the object's head."""
        import obstore  # noqa: PLC0415 - see above

        try:
            meta = await obstore.head_async(self._store, _key(digest))
        except FileNotFoundError:
            return None
        return int(meta["size"])

    async def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Read ranges of at most one chunk."""
        import obstore  # noqa: PLC0415 - see above

        total = await self.size(digest)
        if total is None:
            raise _missing(digest)
        stop = min(total, end if end is not None else total)
        for position in range(start, stop, CHUNK_BYTES):
            part = await obstore.get_range_async(
                self._store, _key(digest), start=position, end=min(position + CHUNK_BYTES, stop)
            )
            yield bytes(part)

    async def delete(self, digest: str) -> None:
        """Delete the object."""
        await self._forget(_key(digest))


def _forget_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def _append(file: BinaryIO, hasher: "hashlib._Hash", chunk: bytes) -> None:
    hasher.update(chunk)
    file.write(chunk)


def _require_size(size: int, size_max: int | None) -> None:
    if size_max is not None and size > size_max:
        raise PayloadTooLarge(f"A blob may have at most {size_max} bytes.", limit=size_max)


def _require_digest(ref: BlobRef, digest: str | None) -> None:
    if digest is not None and ref.digest != digest:
        raise DigestMismatch(
            f"The body hashes to {ref.digest}, not to {digest}; nothing was stored. Send the bytes again.",
            announced=digest,
            received=ref.digest,
        )


def _missing(digest: str) -> NotFound:
    return NotFound(f"There is no blob {digest}.", code="blob_not_found", digest=digest)


async def read_all(store: BlobStore, digest: str, *, size_max: int = 64 * CHUNK_BYTES) -> bytes:
    """Read a small blob whole and verify it against its digest.

    Raises:
        DigestMismatch: The stored bytes were altered.
        PayloadTooLarge: The blob has more than `size_max` bytes.
    """
    parts: list[bytes] = []
    size = 0
    async for chunk in store.read(digest):
        size += len(chunk)
        _require_size(size, size_max)
        parts.append(chunk)
    data = b"".join(parts)
    _require_digest(BlobRef(hashlib.sha256(data).hexdigest(), size), digest)
    return data


async def bytes_of(data: bytes) -> AsyncIterator[bytes]:
    """Present bytes at hand as the stream that `BlobStore.put` takes."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
    if not data:
        yield b""
