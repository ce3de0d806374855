"""Routes of legal holds."""

from typing import Annotated, Any

from clave_common.access import Caller, governed
from clave_contracts.registry import API
from clave_contracts.schema import Number
from clave_contracts.schema import Request as Body
from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy import RowMapping
from starlette.responses import Response

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import answer

_MANAGE = "registry:hold.manage"
_VERSION = f"{API}/models/{{model}}/versions/{{version}}/hold"
_BLOB = f"{API}/blobs/{{digest}}/hold"


class HoldReason(Body):
    """Why something must be kept, or no longer."""

    reason: str = Field(min_length=1, max_length=1_000, examples=["Case 2026-118: keep until the court decides"])


def hold_routes(operations: Operations) -> APIRouter:
    """Build the routes of legal holds."""
    router = APIRouter(tags=["holds"])

    @router.put(_VERSION, summary="Keep a version and its files, whatever retention says", status_code=204)
    async def hold_version(
        model: str,
        version: Number,
        request: HoldReason,
        caller: Caller = governed(_MANAGE, resource_id="models/{model}/versions/{version}"),
    ) -> Response:
        await operations.holds.place_on_version(caller, model, version, reason=request.reason)
        return Response(status_code=204)

    @router.post(f"{_VERSION}/lift", summary="Lift the hold on a version", status_code=204)
    async def lift_version(
        model: str,
        version: Number,
        request: HoldReason,
        caller: Caller = governed(_MANAGE, resource_id="models/{model}/versions/{version}"),
    ) -> Response:
        await operations.holds.lift_from_version(caller, model, version, reason=request.reason)
        return Response(status_code=204)

    @router.put(_BLOB, summary="Keep bytes, whatever retention says", status_code=204)
    async def hold_blob(
        digest: str, request: HoldReason, caller: Caller = governed(_MANAGE, resource_id="blobs/{digest}")
    ) -> Response:
        await operations.holds.place_on_blob(caller, digest, reason=request.reason)
        return Response(status_code=204)

    @router.post(f"{_BLOB}/lift", summary="Lift the hold on bytes", status_code=204)
    async def lift_blob(
        digest: str, request: HoldReason, caller: Caller = governed(_MANAGE, resource_id="blobs/{digest}")
    ) -> Response:
        await operations.holds.lift_from_blob(caller, digest, reason=request.reason)
        return Response(status_code=204)

    @router.get(f"{API}/holds", summary="Holds in force and lifted, newest first")
    async def list_holds(
        page_size: Annotated[int, Query(ge=1, le=1000)] = 100,
        page_token: str | None = None,
        caller: Caller = governed(_MANAGE, resource_id="holds"),
    ) -> Response:
        found, following = await operations.holds.list_page(caller, size=page_size, token=page_token)
        return answer({"holds": [_shown(row) for row in found], "next_page_token": following})

    return router


def _shown(row: RowMapping) -> dict[str, Any]:
    names = ("model", "version", "digest", "reason", "by", "at", "lifted_by", "lifted_at", "lift_reason")
    return {name: row[name] for name in names}
