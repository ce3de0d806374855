"""Where the Parquet log lies: a local folder or an object store, written whole or not at all."""

import asyncio
import os
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from clave_common.errors import Unavailable


class LogStore(Protocol):
    """Takes the log's files."""

    async def put(self, path: str, data: bytes) -> None:
        """Write a file under a relative path; writing it again replaces it.

        Raises:
            Unavailable: The store refused; nothing is written.
        """
        ...


def open_log_store(url: str) -> LogStore:
    """Open the store that a URL names: ``file:///folder`` or ``s3://bucket/prefix``."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalLogStore(Path(unquote(parts.path)))
    return ObjectLogStore(url)


class LocalLogStore:
    """Files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, path: str, data: bytes) -> None:
        """Write beside the place, then rename into it."""
        try:
            await asyncio.to_thread(self._put, self._root / path, data)
        except OSError as error:
            raise Unavailable(
                f"The prediction log cannot be written: {error.strerror or error}. Free space or make it writable.",
                code="prediction_log_unwritable",
            ) from error

    def _put(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


class ObjectLogStore:
    """Objects of an S3-compatible store."""

    def __init__(self, url: str) -> None:
        from obstore.store import from_url  # noqa: PLC0415 - a large extension only this store needs

        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        self._store: Any = from_url(url, client_options={"allow_http": plain})

    async def put(self, path: str, data: bytes) -> None:
        """Put the object."""
        import obstore  # noqa: PLC0415 - see above

        try:
            await obstore.put_async(self._store, path, data)
        except obstore.exceptions.BaseError as error:
            raise Unavailable("The object store does not answer.", code="prediction_log_unavailable") from error
