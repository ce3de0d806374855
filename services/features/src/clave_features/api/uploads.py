"""Receives a request's body as a file: hashed, bounded, removed afterwards."""

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import uuid4

import orjson
from clave_common.errors import PayloadTooLarge
from fastapi import Request
from starlette.requests import ClientDisconnect

from clave_features.domain.errors import ScratchUnwritable, TableEmpty, TableMalformed
from clave_features.runtime.engine import discard
from clave_features.runtime.staging import Form, form_of
from clave_features.services.ingestion import ReceivedTable

_HEAD_BYTES: Final = 4_096
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOENT, errno.ENOTDIR}


@asynccontextmanager
async def received_table(
    request: Request, *, scratch: Path, bytes_max: int, ignore_unknown: bool
) -> AsyncIterator[ReceivedTable]:
    """Stream the body to a file for the length of the block.

    Raises:
        PayloadTooLarge: More than `bytes_max` bytes came.
        TableEmpty, TableMalformed: It cannot be a table.
        ScratchUnwritable: The disk is full or read-only.
    """
    path = scratch / f"{uuid4().hex}.upload"
    try:
        digest, head = await _receive(request, path, bytes_max)
        form = form_of(request.headers.get("content-type"), head)
        yield ReceivedTable(path, digest, form, ignore_unknown, request.headers.get("idempotency-key"))
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise ScratchUnwritable(
            f"The upload cannot be kept ({error.strerror}); free space or make the data folder writable."
        ) from error
    finally:
        await asyncio.to_thread(discard, path)


async def _receive(request: Request, path: Path, bytes_max: int) -> tuple[str, bytes]:
    hasher, size, head = sha256(), 0, b""
    file = await asyncio.to_thread(_open, path)
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > bytes_max:
                raise PayloadTooLarge(
                    f"A table may have at most {bytes_max} bytes; send it in several batches.", limit=bytes_max
                )
            head = head or chunk[:_HEAD_BYTES]
            hasher.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    except ClientDisconnect as error:
        raise TableMalformed("The upload broke off before its end; nothing was kept.") from error
    finally:
        await asyncio.to_thread(file.close)
    return hasher.hexdigest(), head


def _open(path: Path) -> BinaryIO:
    return path.open("xb")


@asynccontextmanager
async def written_table(
    scratch: Path, rows: Sequence[Mapping[str, Any]], *, ignore_unknown: bool
) -> AsyncIterator[ReceivedTable]:
    """Write rows that came inside a JSON body to a file for the length of the block.

    Raises:
        TableEmpty: There are no rows.
    """
    if not rows:
        raise TableEmpty("The table has no rows; nothing was ingested.")
    data = b"\n".join(orjson.dumps(row) for row in rows)
    path = scratch / f"{uuid4().hex}.upload"
    try:
        await asyncio.to_thread(path.write_bytes, data)
        yield ReceivedTable(path, sha256(data).hexdigest(), Form.JSON, ignore_unknown)
    finally:
        await asyncio.to_thread(discard, path)
