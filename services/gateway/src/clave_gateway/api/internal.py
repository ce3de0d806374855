"""Routes that services use: the access snapshot."""

from typing import Annotated

from clave_common.access import Caller, governed
from clave_common.answer_headers import HOLDS_A_SECRET
from clave_contracts.gateway import API
from fastapi import APIRouter, Header
from starlette.responses import Response

from clave_gateway.services.snapshot import SnapshotService


def snapshot_router(service: SnapshotService) -> APIRouter:
    """The route of the access snapshot."""
    router = APIRouter(prefix=API, tags=["services"])

    @router.get("/snapshot", response_class=Response)
    async def snapshot(
        caller: Caller = governed("admin:snapshot.read", resource_id="snapshot"),  # noqa: ARG001
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Give the signed copy of keys and policy, or 304 when the caller's is the newest."""
        held = (if_none_match or "").strip('"')
        raw = await service.fetch(int(held) if held.isascii() and held.isdigit() else None)
        if raw is None:
            return Response(status_code=304)
        return Response(raw, media_type="application/json", headers=HOLDS_A_SECRET)

    return router
