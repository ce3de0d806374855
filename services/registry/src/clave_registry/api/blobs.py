"""Routes of blobs: upload verified, ask, download whole or in ranges."""

from clave_common.access import Caller, governed
from clave_contracts.registry import API
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import answer
from clave_registry.services.blobs import Slice, asked_slice

_PATH = f"{API}/blobs/{{digest}}"
_MEDIA_TYPE = "application/octet-stream"


def blob_routes(operations: Operations) -> APIRouter:
    """Build the routes of blobs."""
    router = APIRouter(tags=["blobs"])

    @router.put(_PATH, summary="Store bytes under their sha256")
    async def put_blob(
        digest: str,
        request: Request,
        caller: Caller = governed("registry:blob.write", resource_id="blobs/{digest}"),
    ) -> Response:
        ref = await operations.blobs.put(caller, digest, request.stream())
        return answer({"digest": ref.digest, "size": ref.size})

    @router.head(_PATH, summary="Did the caller's tenant send this blob?")
    async def head_blob(
        digest: str,
        caller: Caller = governed("registry:blob.read", resource_id="blobs/{digest}"),
    ) -> Response:
        size = await operations.blobs.size(caller, digest)
        return Response(headers=_headers(digest, Slice(0, size, size)), media_type=_MEDIA_TYPE)

    @router.get(_PATH, summary="Download a blob that the caller's tenant sent, or a range of it")
    async def get_blob(
        digest: str,
        request: Request,
        caller: Caller = governed("registry:blob.read", resource_id="blobs/{digest}"),
    ) -> Response:
        size = await operations.blobs.size(caller, digest)
        part = asked_slice(request.headers.get("range"), size)
        headers = _headers(digest, part)
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers={"ETag": headers["ETag"]})
        return StreamingResponse(
            operations.blobs.read(digest, part),
            status_code=200 if part.whole else 206,
            media_type=_MEDIA_TYPE,
            headers=headers,
        )

    return router


def _headers(digest: str, part: Slice) -> dict[str, str]:
    headers = {
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Content-Length": str(part.end - part.start),
        "Cache-Control": "private, immutable, max-age=31536000",
    }
    if not part.whole:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{part.size}"
    return headers
