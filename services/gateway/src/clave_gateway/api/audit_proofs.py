"""Routes on the audit log's proofs: of an entry, of two sizes, and the signed checkpoints they end in."""

import base64
from typing import Annotated

from clave_common.access import Caller, governed
from clave_contracts.schema import Answer
from fastapi import APIRouter, Path, Query

from clave_gateway.services.audit import AuditService

EntryId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


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


def add_proofs(router: APIRouter, service: AuditService) -> None:
    """Add the routes to the audit log's."""

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
