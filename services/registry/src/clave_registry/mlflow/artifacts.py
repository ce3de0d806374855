"""Operations on the artifacts of runs and logged models.

A path is a row that names a blob. Bytes stream straight into the content-addressed store; a folder from which a version
was registered can no longer be written to or emptied, because a registered version never changes.
"""

import mimetypes
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from clave_common.access import Caller
from clave_common.blobstore import BlobRef
from clave_common.database import Transaction
from clave_common.errors import FailedPrecondition, InvalidArgument, NotFound

from clave_registry.domain.artifact_path import InvalidArtifactPath, checked_artifact_path
from clave_registry.mlflow.context import Context, audited
from clave_registry.mlflow.messages import Message, Row
from clave_registry.mlflow.model_versions import VERSIONS_FOLDER
from clave_registry.services.blobs import Slice, asked_slice, coalesced, note_stored
from clave_registry.services.governance import tenant_of
from clave_registry.storage import uploads
from clave_registry.storage.mlflow import artifacts as rows

_PINNED = re.compile(rf"{VERSIONS_FOLDER}/(?P<model>mdl_[0-9a-z]+)/(?P<version>\d{{1,9}})(?:/(?P<path>.+))?")


class ArtifactPinned(FailedPrecondition):
    """A registered version was made from this folder; its bytes never change."""

    code = "artifact_pinned"


@dataclass(frozen=True, slots=True)
class Download:
    """A part of an artifact and what it is."""

    chunks: AsyncIterator[bytes]
    part: Slice
    digest: str
    name: str
    media_type: str


class Artifacts:
    """Upload, download, list and delete artifacts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def put(self, caller: Caller, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Store a file; whole or not at all.

        Raises:
            InvalidArtifactPath: The path could leave its folder.
            ArtifactPinned: A version was registered from its folder.
        """
        path = checked_path(path)
        require_writable(path)
        ref = await self._context.store.put(coalesced(chunks), size_max=self._context.blob_bytes_max)
        await self.name(caller, path, ref)

    async def require_open(self, caller: Caller, path: str) -> None:
        """Refuse a file that could not be named later, before its bytes are sent.

        Raises:
            InvalidArgument: The path could leave its folder, or a folder of it is a file.
            ArtifactPinned: A version was registered from its folder.
        """
        require_writable(path)
        async with self._context.database.transaction() as tx:
            await _require_free(tx, tenant_of(caller), path)

    async def name(self, caller: Caller, path: str, ref: BlobRef, *, upload: str | None = None) -> None:
        """Let a path hold a blob that is stored; with `upload`, record that this is what became of it."""
        tenant = tenant_of(caller)
        async with self._context.database.transaction() as tx:
            await rows.begin_write(tx, tenant)
            if upload is not None:
                await uploads.finish(tx, upload, digest=ref.digest, size=ref.size)
            known = await rows.find(tx, tenant, path)
            if known is not None and known["digest"] == ref.digest:
                return
            await _require_free(tx, tenant, path)
            await note_stored(tx, self._context.store, ref, tenant=tenant, at=self._context.clock.now())
            await rows.put(tx, tenant, path, digest=ref.digest, size=ref.size)
            await audited(tx, caller, "registry:blob.write", f"artifacts/{path}", digest=ref.digest, size=ref.size)

    async def get(self, caller: Caller, path: str, *, asked_range: str | None) -> Download:
        """Stream a file, or a range of it."""
        path = checked_path(path)
        async with self._context.database.transaction() as tx:
            row = await file_of(tx, caller, path)
        if row is None:
            raise NotFound(f"No such artifact: '{path}'.", code="artifact_not_found")
        part = asked_slice(asked_range, row["size"])
        chunks = self._context.store.read(row["digest"], start=part.start, end=part.end)
        name = path.rpartition("/")[2]
        guessed = mimetypes.guess_type(name)[0]
        plain = guessed in {"text/plain", "image/png", "image/jpeg", "application/json"}
        media_type = guessed if plain and guessed else "application/octet-stream"
        return Download(chunks, part, row["digest"], name, media_type)

    async def list_folder(self, caller: Caller, path: str) -> Message:
        """List what lies directly in a folder; a folder that is not there is empty."""
        folder = checked_path(path.strip("/")) if path.strip("/") else ""
        async with self._context.database.transaction() as tx:
            files = await _files(tx, tenant_of(caller), folder)
        start = len(folder) + 1 if folder else 0
        entries: dict[str, Message] = {}
        for row in files:
            name, inside, _ = row["path"][start:].partition("/")
            if inside:
                entries[name] = {"path": name, "is_dir": True}
            else:
                entries[name] = {"path": name, "is_dir": False, "file_size": row["size"]}
        return {"files": [entries[name] for name in sorted(entries)]} if entries else {}

    async def delete(self, caller: Caller, path: str) -> None:
        """Forget a file, or a folder with everything in it."""
        path, tenant = checked_path(path), tenant_of(caller)
        require_writable(path)
        async with self._context.database.transaction() as tx:
            await rows.begin_write(tx, tenant)
            found = [row["path"] for row in await rows.below(tx, tenant, path)]
            if await rows.find(tx, tenant, path) is not None:
                found.append(path)
            inside = {folder for file in found for folder in _folders(file)}
            pinned = await rows.pinned_by(tx, tenant, sorted(inside))
            if pinned is not None:
                raise _pinned(path, pinned)
            await rows.remove(tx, tenant, found)
            await audited(tx, caller, "registry:blob.write", f"artifacts/{path}", deleted=len(found))


async def _files(tx: Transaction, tenant: str, folder: str) -> Sequence[Row]:
    pinned = _PINNED.fullmatch(folder)
    if pinned is None:
        return await rows.below(tx, tenant, folder)
    inside = pinned["path"] or ""
    found = await rows.pinned_files(tx, tenant, pinned["model"], int(pinned["version"]))
    prefix = f"{inside}/" if inside else ""
    base = folder.removesuffix(f"/{inside}") if inside else folder
    return [{**row, "path": f"{base}/{row['path']}"} for row in found if row["path"].startswith(prefix)]


async def _require_free(tx: Transaction, tenant: str, path: str) -> None:
    pinned = await rows.pinned_by(tx, tenant, _folders(path))
    if pinned is not None:
        raise _pinned(path, pinned)
    if await rows.any_at(tx, tenant, _folders(path)):
        raise InvalidArgument(f"Invalid path: a folder of '{path}' is a file.", field="path")


async def file_of(tx: Transaction, caller: Caller, path: str) -> Row | None:
    """Find a file, of a run or of a registered version."""
    tenant = tenant_of(caller)
    if _PINNED.fullmatch(path) is None:
        return await rows.find(tx, tenant, path)
    folder = path.rpartition("/")[0]
    return next((row for row in await _files(tx, tenant, folder) if row["path"] == path), None)


def require_writable(path: str) -> None:
    """Refuse a path among the files of registered versions."""
    if path.partition("/")[0] == VERSIONS_FOLDER:
        raise InvalidArgument("Invalid path: the files of registered versions never change.", field="path")


def checked_path(path: str) -> str:
    """Return a path that can only mean one place, or refuse it in MLflow's words."""
    try:
        return checked_artifact_path(path)
    except InvalidArtifactPath as error:
        raise InvalidArgument(f"Invalid path: {error.detail}", field="path") from error


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _pinned(path: str, version: tuple[str, int]) -> ArtifactPinned:
    model, number = version
    return ArtifactPinned(
        f"'{path}' belongs to version {number} of '{model}', whose bytes never change. Log a new model instead.",
        path=path,
        model=model,
        version=number,
    )
