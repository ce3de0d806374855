"""Files of a step in the trainer's blob store: stored by content, fetched by digest."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from clave_common.blobstore import BlobStore, DigestMismatch
from clave_contracts.client import file_chunks

Pointer = dict[str, Any]
"""``{"digest": sha256, "size": bytes}``; committed with the state of the step that made it."""


async def store_file(blobs: BlobStore, path: Path) -> Pointer:
    """Store a file; storing it again changes nothing."""
    ref = await blobs.put(file_chunks(str(path)))
    return {"digest": ref.digest, "size": ref.size}


async def store_stream(blobs: BlobStore, chunks: AsyncIterator[bytes], digest: str) -> Pointer:
    """Store a stream that must hash to a digest."""
    ref = await blobs.put(chunks, digest=digest)
    return {"digest": ref.digest, "size": ref.size}


async def fetch_file(chunks: AsyncIterator[bytes], path: Path, digest: str) -> None:
    """Write a stream to a file and verify it.

    Raises:
        DigestMismatch: The bytes are not those of the digest.
    """
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        async for chunk in chunks:
            hasher.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    if hasher.hexdigest() != digest:
        raise DigestMismatch(f"{path.name} hashes to {hasher.hexdigest()}, not to {digest}.", announced=digest)
