"""Routes of uploads that come in parts and can be resumed."""

from typing import Any

from clave_common.access import Caller, governed
from clave_contracts.registry import API
from clave_contracts.schema import Number
from clave_contracts.schema import Request as Body
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import answer
from clave_registry.services.uploads import PARTS_MAX, Upload

UPLOADS = f"{API}/uploads"


class UploadCreate(Body):
    """The bytes that are to come."""

    digest: str = Field(
        pattern="^[0-9a-f]{64}$", examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    )
    parts: int = Field(ge=1, le=PARTS_MAX, examples=[12])


def upload_routes(operations: Operations) -> APIRouter:
    """Build the routes of uploads."""
    router = APIRouter(tags=["blobs"])

    @router.post(
        UPLOADS, summary="Begin an upload in parts, or find the unfinished one of the same bytes", status_code=201
    )
    async def begin(
        request: UploadCreate, caller: Caller = governed("registry:blob.write", resource_id="uploads")
    ) -> Response:
        upload = await operations.uploads.begin(caller, parts=request.parts, digest=request.digest)
        return answer(_shown(upload), status=201)

    @router.get(f"{UPLOADS}/{{upload}}", summary="Which parts are there?")
    async def get(
        upload: str, caller: Caller = governed("registry:blob.write", resource_id="uploads/{upload}")
    ) -> Response:
        return answer(_shown(await operations.uploads.get(caller, upload)))

    @router.put(f"{UPLOADS}/{{upload}}/parts/{{number}}", summary="Send a part, again if it was cut")
    async def put_part(
        upload: str,
        number: Number,
        request: Request,
        caller: Caller = governed("registry:blob.write", resource_id="uploads/{upload}"),
    ) -> Response:
        size = await operations.uploads.put_part(caller, upload, number, request.stream())
        return answer({"number": number, "size": size})

    @router.post(f"{UPLOADS}/{{upload}}/finish", summary="Put the parts together and verify the whole")
    async def finish(
        upload: str, caller: Caller = governed("registry:blob.write", resource_id="uploads/{upload}")
    ) -> Response:
        ref = await operations.uploads.finish(caller, upload)
        return answer({"digest": ref.digest, "size": ref.size})

    @router.delete(f"{UPLOADS}/{{upload}}", summary="Forget an upload and its parts", status_code=204)
    async def abort(
        upload: str, caller: Caller = governed("registry:blob.write", resource_id="uploads/{upload}")
    ) -> Response:
        await operations.uploads.abort(caller, upload)
        return Response(status_code=204)

    return router


def _shown(upload: Upload) -> dict[str, Any]:
    there = [{"number": number, "size": size} for number, size in sorted(upload.there.items())]
    return {
        "id": upload.id,
        "digest": upload.digest,
        "parts": upload.parts,
        "there": there,
        "finished": upload.finished is not None,
    }
