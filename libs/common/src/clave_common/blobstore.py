"""Content-addressed bytes: a blob's name is its sha256, so it can be verified, never changed, and stored once.

A local folder is written with plain files and an atomic link; anything else goes through `blobstore_objects` (S3 and
its kin). Both hash while they write and never hold a whole blob in memory. What is not whole yet (an upload on its way,
the parts of one that comes in pieces) lies under ``partial/`` and is swept when nobody has touched it for long.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from clave_common.errors import InvalidArgument, NotFound, PayloadTooLarge, Unavailable

CHUNK_BYTES = 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")
_UPLOAD = re.compile(r"[0-9a-z_]{1,64}")


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


class PartStore(BlobStore, Protocol):
    """A store that also takes a blob in parts, each written by itself, and forgets what was never finished."""

    async def put_part(self, upload: str, number: int, chunks: AsyncIterator[bytes], *, size_max: int) -> int:
        """Store a part, instead of one of the same number; whole or not at all.

        Args:
            upload: Id of the upload, 1 to 64 lower-case letters, digits and underscores.
            number: Of the part, 1 or more.
            chunks: Its bytes.
            size_max: Bytes it may have.

        Returns:
            Its size in bytes.

        Raises:
            PayloadTooLarge: More than `size_max` bytes came.
            Unavailable: The store refused.
        """
        ...

    async def parts(self, upload: str) -> dict[int, int]:
        """Tell which parts are there: number -> size in bytes."""
        ...

    def read_part(self, upload: str, number: int) -> AsyncIterator[bytes]:
        """Stream a part; NotFound when it is not there."""
        ...

    async def drop_parts(self, upload: str) -> None:
        """Forget an upload's parts."""
        ...

    async def sweep(self, *, before: datetime) -> int:
        """Forget everything unfinished that nobody touched since `before`; return how much it was (objects)."""
        ...

    async def read_url(self, digest: str, *, expires_s: float) -> str | None:
        """Give a URL under which a blob can be read without credentials for a while; None where there is no such."""
        ...

    async def part_url(self, upload: str, number: int, *, expires_s: float) -> str | None:
        """Give a URL to which a part can be PUT without credentials for a while; None where there is no such."""
        ...


def checked_digest(digest: str) -> str:
    """Return the digest if it is 64 lower-case hex characters; raise InvalidArgument otherwise."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument("A blob is named by its sha256: 64 lower-case hexadecimal characters.", field="digest")
    return digest


def blob_key(digest: str) -> str:
    """Name a blob's place below the store's root."""
    return f"sha256/{checked_digest(digest)[:2]}/{digest}"


def part_key(upload: str, number: int | None = None) -> str:
    """Name the place of an upload's parts, or of one of them, below the store's root."""
    if not _UPLOAD.fullmatch(upload) or (number is not None and number < 1):
        raise InvalidArgument("An upload has an id of 1 to 64 letters and digits, its parts numbers from 1.")
    return f"partial/{upload}.parts" if number is None else f"partial/{upload}.parts/{number:08d}"


def open_blob_store(url: str) -> PartStore:
    """Open the store that a URL names: ``file:///folder`` or ``s3://bucket/prefix``."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalBlobStore(Path(unquote(parts.path)))
    from clave_common.blobstore_objects import ObjectBlobStore  # noqa: PLC0415 - its extension is large

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
            require_digest(ref, digest)
            await asyncio.to_thread(self._settle, partial, self._root / blob_key(ref.digest))
        except OSError as error:
            raise _unwritable(error) from error
        finally:
            await asyncio.to_thread(_forget_file, partial)
        return ref

    async def _receive(self, path: Path, chunks: AsyncIterator[bytes], size_max: int | None) -> BlobRef:
        hasher, size = hashlib.sha256(), 0
        with path.open("xb") as file:
            async for chunk in chunks:
                size += len(chunk)
                require_size(size, size_max)
                await asyncio.to_thread(_append, file, hasher, chunk)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        return BlobRef(hasher.hexdigest(), size)

    def _settle(self, partial: Path, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        # Whoever sent it before may not have come to the end of this yet, and need not show in how long it takes.
        with contextlib.suppress(FileExistsError):
            os.link(partial, final)
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def size(self, digest: str) -> int | None:
        """Look at the file."""
        path = self._root / blob_key(digest)
        try:
            return (await asyncio.to_thread(path.stat)).st_size
        except FileNotFoundError:
            return None

    def path(self, digest: str) -> Path:
        """Name the file of a blob, for readers in the same process that need a path."""
        return self._root / blob_key(digest)

    async def read(self, digest: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Read the file in chunks."""
        path = self._root / blob_key(digest)
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError as error:
            raise missing_blob(digest) from error
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
        await asyncio.to_thread((self._root / blob_key(digest)).unlink, missing_ok=True)

    async def put_part(self, upload: str, number: int, chunks: AsyncIterator[bytes], *, size_max: int) -> int:
        """Write to a temporary file, then rename it."""
        final = self._root / part_key(upload, number)
        partial = final.with_suffix(f".{uuid4().hex}")
        try:
            await asyncio.to_thread(final.parent.mkdir, parents=True, exist_ok=True)
            ref = await self._receive(partial, chunks, size_max)
            await asyncio.to_thread(partial.replace, final)
        except OSError as error:
            raise _unwritable(error) from error
        finally:
            await asyncio.to_thread(_forget_file, partial)
        return ref.size

    async def parts(self, upload: str) -> dict[int, int]:
        """Look at the files."""
        folder = self._root / part_key(upload)

        def found() -> dict[int, int]:
            if not folder.is_dir():
                return {}
            return {int(file.name): file.stat().st_size for file in folder.iterdir() if file.name.isdecimal()}

        return await asyncio.to_thread(found)

    async def read_part(self, upload: str, number: int) -> AsyncIterator[bytes]:
        """Read the file in chunks."""
        try:
            file = await asyncio.to_thread((self._root / part_key(upload, number)).open, "rb")
        except FileNotFoundError as error:
            raise missing_part(upload, number) from error
        with file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk

    async def drop_parts(self, upload: str) -> None:
        """Remove the folder."""
        await asyncio.to_thread(shutil.rmtree, self._root / part_key(upload), ignore_errors=True)

    async def sweep(self, *, before: datetime) -> int:
        """Remove files, and folders of parts, that were last changed before."""

        def swept() -> int:
            old = [path for path in (self._root / "partial").glob("*") if path.stat().st_mtime < before.timestamp()]
            for path in old:
                shutil.rmtree(path) if path.is_dir() else _forget_file(path)
            return len(old)

        return await asyncio.to_thread(swept)

    async def read_url(self, digest: str, *, expires_s: float) -> str | None:  # noqa: ARG002 - as every store
        """A folder has no URL."""
        return None

    async def part_url(self, upload: str, number: int, *, expires_s: float) -> str | None:  # noqa: ARG002 - as every store
        """A folder has no URL."""
        return None


def _unwritable(error: OSError) -> Unavailable:
    return Unavailable(
        f"The blob store cannot write: {error.strerror or error}. Free space or make the folder writable.",
        code="blob_store_unwritable",
    )


def missing_part(upload: str, number: int) -> NotFound:
    """Build the refusal for a part that is not there."""
    return NotFound(f"Part {number} of upload {upload} was not sent.", code="part_not_found", part=number)


def _forget_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def _append(file: BinaryIO, hasher: "hashlib._Hash", chunk: bytes) -> None:
    hasher.update(chunk)
    file.write(chunk)


def require_size(size: int, size_max: int | None) -> None:
    """Refuse more bytes than allowed."""
    if size_max is not None and size > size_max:
        raise PayloadTooLarge(f"A blob may have at most {size_max} bytes.", limit=size_max)


def require_digest(ref: BlobRef, digest: str | None) -> None:
    """Refuse bytes that hash to something else than announced."""
    if digest is not None and ref.digest != digest:
        raise DigestMismatch(
            f"The body hashes to {ref.digest}, not to {digest}; nothing was stored. Send the bytes again.",
            announced=digest,
            received=ref.digest,
        )


def missing_blob(digest: str) -> NotFound:
    """Build the refusal for a blob that is not stored."""
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
        require_size(size, size_max)
        parts.append(chunk)
    data = b"".join(parts)
    require_digest(BlobRef(hashlib.sha256(data).hexdigest(), size), digest)
    return data


async def bytes_of(data: bytes) -> AsyncIterator[bytes]:
    """Present bytes at hand as the stream that `BlobStore.put` takes."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
    if not data:
        yield b""
