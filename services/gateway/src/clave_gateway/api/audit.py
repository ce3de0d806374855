"""Routes on the audit log: search, verification, export; proofs are in `audit_proofs`."""

from datetime import datetime
from typing import Annotated

import orjson
from clave_common.access import Caller, governed
from clave_common.pages import PageSize, PageToken, decode_token, encode_token
from clave_common.pages import page_size as bounded
from clave_contracts.gateway import API, AuditPage, AuditRecord, AuditVerification
from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from clave_gateway.api.audit_proofs import add_proofs
from clave_gateway.services.audit import AuditSearch, AuditService

Filter = Annotated[str | None, Query(max_length=300)]


def audit_router(service: AuditService) -> APIRouter:
    """Routes on the audit log."""
    router = APIRouter(prefix=f"{API}/audit", tags=["audit"])

    @router.get("")
    async def search(
        *,
        caller: Caller = governed("audit:log.read", resource_id="audit"),
        actor: Filter = None,
        action: Filter = None,
        resource: Filter = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: PageSize = 50,
        page_token: PageToken = None,
    ) -> AuditPage:
        """Search the log, newest first; `resource` matches from its start."""
        query = f"audit:{actor}:{action}:{resource}:{since}:{until}"
        before = int(decode_token(page_token, query=query, kinds=(int,))[0]) if page_token else None
        limit = bounded(page_size)
        wanted = AuditSearch(actor=actor, action=action, resource=resource, since=since, until=until)
        rows = await service.search(caller, wanted, before=before, limit=limit + 1)
        token = encode_token([rows[limit - 1].index], query=query) if len(rows) > limit else ""
        return AuditPage(
            records=[
                AuditRecord(
                    index=row.index,
                    entry=orjson.loads(row.canonical),
                    leaf_hash=row.leaf_hash.hex(),
                    recorded_at=row.recorded_at,
                )
                for row in rows[:limit]
            ],
            next_page_token=token,
        )

    @router.post("/verify")
    async def verify(
        caller: Caller = governed("audit:log.verify", resource_id="audit"),  # noqa: ARG001
        signatures: Annotated[bool, Query(description="Check each entry's own signature too; takes longer.")] = False,  # noqa: FBT002 - a query parameter
    ) -> AuditVerification:
        """Recompute the whole log and compare it with its signed checkpoints and the witness's copy."""
        finding = await service.verify(signatures=signatures)
        return AuditVerification(
            ok=finding.damage is None,
            size=finding.size,
            root=finding.root.hex(),
            damage=finding.damage.value if finding.damage else None,
            first_bad=finding.first_bad,
            detail=finding.detail,
        )

    @router.get("/export", response_class=StreamingResponse)
    async def export(
        caller: Caller = governed("audit:log.read", resource_id="audit"),
        first: Annotated[int, Query(ge=0, le=2**53)] = 0,
    ) -> StreamingResponse:
        """Export entries as ECS documents, one JSON line each."""
        return StreamingResponse(service.export(caller, first=first), media_type="application/x-ndjson")

    add_proofs(router, service)
    return router
