"""Routes on the audit log."""

import base64
from datetime import datetime
from typing import Annotated

import orjson
from clave_common.access import Caller, governed
from clave_common.pages import PageSize, PageToken, decode_token, encode_token
from clave_common.pages import page_size as bounded
from clave_contracts.gateway import API, AuditPage, AuditRecord, AuditVerification
from clave_contracts.schema import Answer
from fastapi import APIRouter, Path, Query
from starlette.responses import StreamingResponse

from clave_gateway.services.audit import AuditSearch, AuditService

EntryId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
Filter = Annotated[str | None, Query(max_length=300)]


class AuditProof(Answer):
    """One entry with all that is needed to check it without the gateway.

    Attributes:
        canonical: The leaf's data; SHA-256 of a zero byte and these bytes is `leaf_hash`.
        proof: Base64 hashes from the leaf to the root, nearest first (RFC 6962).
        checkpoint: Signed note (C2SP) that states size and root.
        public_key: Base64 of the log's Ed25519 key.
        service_key: Base64 of the Ed25519 key with which the entry's service signed it; absent for entries from before
            services signed.
    """

    index: int
    canonical: str
    leaf_hash: str
    proof: list[str]
    size: int
    checkpoint: str
    public_key: str
    service_key: str | None = None


class ConsistencyProof(Answer):
    """Two sizes of the log with all that is needed to check that the later extends the earlier.

    Attributes:
        old_root: Base64 root of the first `old_size` entries.
        proof: Base64 hashes (RFC 6962, 2.1.2).
        old_checkpoint: Signed note that states the earlier size and root, where one of that size was made.
        checkpoint: Signed note that states the later ones, where one of that size was made.
        public_key: Base64 of the log's Ed25519 key.
    """

    old_size: int
    old_root: str
    size: int
    root: str
    proof: list[str]
    old_checkpoint: str | None
    checkpoint: str | None
    public_key: str


class CheckpointPage(Answer):
    """Signed checkpoints by size."""

    checkpoints: list[str]


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

    @router.get("/entries/{entry_id}/proof")
    async def prove(
        entry_id: EntryId,
        caller: Caller = governed("audit:log.prove", resource_id="audit"),
    ) -> AuditProof:
        """Prove that an entry is in the log, checkable offline."""
        proof = await service.prove(caller, entry_id)
        return AuditProof(
            index=proof.index,
            canonical=proof.canonical.decode(),
            leaf_hash=proof.leaf.hex(),
            proof=[base64.b64encode(step).decode() for step in proof.proof],
            size=proof.size,
            checkpoint=proof.checkpoint,
            public_key=base64.b64encode(proof.public_key).decode(),
            service_key=base64.b64encode(proof.service_key).decode() if proof.service_key else None,
        )

    @router.get("/consistency")
    async def consistency(
        old_size: Annotated[int, Query(ge=1, le=2**53)],
        caller: Caller = governed("audit:log.prove", resource_id="audit"),  # noqa: ARG001
        size: Annotated[int | None, Query(ge=1, le=2**53, description="Now, when absent.")] = None,
    ) -> ConsistencyProof:
        """Prove that the log of `size` entries extends the one of `old_size`, checkable offline."""
        return ConsistencyProof(**await service.consistency(old_size, size))

    @router.get("/checkpoints")
    async def checkpoints(
        caller: Caller = governed("audit:log.verify", resource_id="audit"),  # noqa: ARG001
    ) -> CheckpointPage:
        """List every signed checkpoint."""
        return CheckpointPage(checkpoints=await service.checkpoints())

    @router.get("/export", response_class=StreamingResponse)
    async def export(
        caller: Caller = governed("audit:log.read", resource_id="audit"),
        first: Annotated[int, Query(ge=0, le=2**53)] = 0,
    ) -> StreamingResponse:
        """Export entries as ECS documents, one JSON line each."""
        return StreamingResponse(service.export(caller, first=first), media_type="application/x-ndjson")

    return router
