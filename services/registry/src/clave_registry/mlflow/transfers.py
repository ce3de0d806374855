"""MLflow's transfers of large files: uploads in parts, and downloads straight from the object store.

A part's URL is this service's own, and the headers that come with it are the caller's own credential given back: the
client sends parts with nothing else, and each of them is authenticated and decided like every other request. Where the
store gives signed URLs and direct transfer is on, parts and downloads pass this service by.
"""

import re
from dataclasses import dataclass

from clave_common.access import Caller
from clave_common.errors import ClaveError, InvalidArgument, Kind, NotFound

from clave_registry.mlflow.artifacts import Artifacts, checked_path, file_of
from clave_registry.mlflow.context import Context
from clave_registry.mlflow.messages import Message
from clave_registry.mlflow.values import Fields
from clave_registry.services.uploads import Uploads

TRANSFERS = "/api/2.0/mlflow-artifacts"
PART = f"{TRANSFERS}/mpu/part"
_SEPARATORS = re.compile(r"[/\\]")


class NotSupported(ClaveError):
    """The client goes on with one request instead (it looks at the status and the first words)."""

    kind = Kind.UNIMPLEMENTED
    code = "direct_transfer_off"


@dataclass(frozen=True, slots=True)
class Door:
    """How the caller reached this service: what part URLs begin with and carry."""

    base_url: str
    authorization: str


class Transfers:
    """Uploads in parts and presigned downloads."""

    def __init__(self, context: Context, artifacts: Artifacts, uploads: Uploads) -> None:
        self._context = context
        self._artifacts = artifacts
        self._uploads = uploads

    async def create(self, caller: Caller, folder: str, fields: Fields, door: Door) -> Message:
        """Begin an upload and say where each part goes."""
        path = _target(folder, fields)
        await self._artifacts.require_open(caller, path)
        upload = await self._uploads.begin(caller, parts=fields.integer("num_parts"), path=path)
        credentials = [await self._credential(upload.id, number, door) for number in range(1, upload.parts + 1)]
        return {"upload_id": upload.id, "credentials": credentials}

    async def _credential(self, upload: str, number: int, door: Door) -> Message:
        seconds = self._context.direct_transfer_s
        signed = await self._context.store.part_url(upload, number, expires_s=seconds) if seconds else None
        if signed is not None:
            return {"url": signed, "part_number": number, "headers": {}}
        url = f"{door.base_url}{PART}/{upload}/{number}"
        return {"url": url, "part_number": number, "headers": {"Authorization": door.authorization}}

    async def complete(self, caller: Caller, folder: str, fields: Fields) -> Message:
        """Put the parts together and give the whole its name; again, it changes nothing."""
        path, upload_id = _target(folder, fields), fields.text("upload_id")
        found = await self._uploads.get(caller, upload_id)
        if found.path != path:
            raise InvalidArgument("This upload was begun for another file.", field="upload_id")
        if found.finished is None:
            _, ref = await self._uploads.put_together(caller, upload_id)
            await self._artifacts.name(caller, path, ref, upload=upload_id)
            await self._context.store.drop_parts(upload_id)
        return {}

    async def abort(self, caller: Caller, _folder: str, fields: Fields) -> Message:
        """Forget an upload."""
        await self._uploads.abort(caller, fields.text("upload_id"))
        return {}

    async def presigned(self, caller: Caller, path: str) -> Message:
        """Give a URL from which a file can be read in ranges.

        Raises:
            NotSupported: Direct transfer is off, or the store has no such URLs.
        """
        path = checked_path(path)
        async with self._context.database.transaction() as tx:
            row = await file_of(tx, caller, path)
        if row is None:
            raise NotFound(f"No such artifact: '{path}'.", code="artifact_not_found")
        seconds = self._context.direct_transfer_s
        url = await self._context.store.read_url(row["digest"], expires_s=seconds) if seconds else None
        if url is None:
            raise NotSupported("Presigned download is not supported for the current artifact repository.")
        return {"url": url, "headers": {}, "file_size": row["size"]}


def _target(folder: str, fields: Fields) -> str:
    """Join the folder in the URL with the name of the sender's file, whatever system it lies on."""
    name = _SEPARATORS.split(fields.text("path"))[-1]
    return checked_path(f"{folder}/{name}" if folder else name)
