"""Artifacts on local disk, by digest, and the desired state that was good last.

Every file is hashed again before it is used: what the cache holds is only believed with its digest. Files are written
beside their place and renamed, so a crash leaves no half file under a good name.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final
from uuid import uuid4

from clave_common.logs import get_logger

_log = get_logger(__name__)
_CHUNK_BYTES: Final = 1 << 20
_DESIRED: Final = "desired.json"
_TABLES_FORMAT: Final = 2  # tables of another layout are made anew


class ArtifactDamaged(Exception):
    """The bytes are not the bytes that the digest names, or there are more than announced."""


class ArtifactCache:
    """Files by digest below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        (root / "verdicts").mkdir(parents=True, exist_ok=True)
        (root / "tables").mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Name the file of a digest, whether or not it is there."""
        return self._root / "blobs" / digest

    def holds(self, digest: str) -> bool:
        """Whether the file is there and its bytes hash to its name; a damaged file is removed."""
        path = self.path(digest)
        if not path.exists():
            return False
        if file_digest(path) == digest:
            return True
        _log.warning("cached_artifact_damaged", digest=digest)
        path.unlink(missing_ok=True)
        return False

    async def store(self, digest: str, size: int, chunks: AsyncIterator[bytes]) -> Path:
        """Write a stream under its digest.

        Raises:
            ArtifactDamaged: The bytes are others than announced; nothing is kept.
            OSError: The disk refuses; nothing is kept.
        """
        partial = self._root / f"partial-{uuid4().hex}"
        hasher, received = hashlib.sha256(), 0
        try:
            with partial.open("wb") as file:
                async for chunk in chunks:
                    received += len(chunk)
                    if received > size:
                        raise ArtifactDamaged(f"more than the announced {size} bytes arrived")
                    hasher.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if hasher.hexdigest() != digest:
                raise ArtifactDamaged(f"the bytes hash to {hasher.hexdigest()}")
            partial.replace(self.path(digest))
        finally:
            partial.unlink(missing_ok=True)
        return self.path(digest)

    def tables_path(self, digest: str) -> Path:
        """Name the explanation tables made from a tree file, whether or not they are there."""
        return self._root / "tables" / f"{digest}.{_TABLES_FORMAT}.npz"

    def verdict(self, digest: str) -> str | None:
        """Give what the check of a file said before: "" = good, text = why not, None = never checked."""
        try:
            return (self._root / "verdicts" / digest).read_text()
        except FileNotFoundError:
            return None

    def keep_verdict(self, digest: str, verdict: str) -> None:
        """Remember what the check of a file said."""
        _write(self._root / "verdicts" / digest, verdict.encode())

    def keep_only(self, digests: Iterable[str]) -> None:
        """Remove every file that is not named."""
        kept = set(digests)
        for folder in ("blobs", "verdicts", "tables"):
            for path in (self._root / folder).iterdir():
                if path.name.partition(".")[0] not in kept:
                    path.unlink(missing_ok=True)

    def save_desired(self, document: bytes) -> None:
        """Keep the desired state that is served completely."""
        _write(self._root / _DESIRED, document)

    def load_desired(self) -> bytes | None:
        """Give the desired state that was good last."""
        try:
            return (self._root / _DESIRED).read_bytes()
        except FileNotFoundError:
            return None


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def file_digest(path: Path) -> str:
    """Hash a file: sha256, lower-case hex."""
    with path.open("rb") as file:
        hasher = hashlib.sha256()
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
        return hasher.hexdigest()
