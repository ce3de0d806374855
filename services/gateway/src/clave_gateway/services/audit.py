"""Searches, proves and verifies the audit log."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
from clave_common.access.enforcement import Access
from clave_common.access.filters import visible_rows
from clave_common.access.model import Caller
from clave_common.audit_signatures import SIGNATURE, AuditVerifier, EntryRefused
from clave_common.database import Database
from clave_common.errors import NotFound
from sqlalchemy import ColumnElement

from clave_gateway.domain.checkpoints import Checkpoint, CheckpointInvalid, read_checkpoint
from clave_gateway.domain.merkle import consistency_proof, inclusion_proof, root_of
from clave_gateway.domain.verification import Finding, StoredEntry, verify_log
from clave_gateway.runtime.sequencer import Sequencer, Witness
from clave_gateway.signing import GatewaySigner
from clave_gateway.storage import audit
from clave_gateway.storage.audit import AuditRow
from clave_gateway.storage.tables import audit_log


@dataclass(frozen=True, slots=True)
class AuditSearch:
    """What to look for; absent fields do not narrow."""

    actor: str | None = None
    action: str | None = None
    resource: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Everything needed to check one entry without the gateway.

    Attributes:
        canonical: The entry's canonical JSON, the data of its leaf.
        proof: Hashes from the leaf to the checkpoint's root, nearest first.
        checkpoint: Signed note that states the root.
        public_key: The log's Ed25519 key.
        service_key: The Ed25519 key with which the entry's service signed it; None where it did not.
    """

    index: int
    canonical: bytes
    leaf: bytes
    proof: list[bytes]
    checkpoint: str
    size: int
    public_key: bytes
    service_key: bytes | None


class AuditService:
    """Operations on the audit log."""

    def __init__(
        self,
        database: Database,
        access: Access,
        signer: GatewaySigner,
        witness: Witness,
        sequencer: Sequencer,
        verifier: AuditVerifier,
    ) -> None:
        self._database = database
        self._access = access
        self._signer = signer
        self._witness = witness
        self._sequencer = sequencer
        self._verifier = verifier

    async def search(self, caller: Caller, wanted: AuditSearch, *, before: int | None, limit: int) -> list[AuditRow]:
        """List entries of the tenants that the caller may see, newest first."""
        conditions = [await self._visible(caller), *_conditions(wanted)]
        async with self._database.transaction() as tx:
            return await audit.search(tx.session, conditions, before=before, limit=limit)

    async def _visible(self, caller: Caller) -> ColumnElement[bool]:
        clauses = await self._access.visible(caller, "audit:log.read")
        return visible_rows(clauses, tenant=audit_log.c.tenant, resource_id=audit_log.c.resource)

    async def verify(self, *, signatures: bool = False) -> Finding:
        """Recompute the whole log and compare it with its checkpoints and the witness.

        What was promised is read before what is there: the log grows meanwhile, and never shrinks.

        Args:
            signatures: Check each entry's own signature as well.
        """
        judge = self._judged if signatures else None
        leaves = self._witness.leaves()
        async with self._database.transaction() as tx:
            notes = [*await audit.list_checkpoints(tx.session), *self._witness.checkpoints()]
            entries = [
                StoredEntry(row.index, row.canonical, row.leaf_hash) async for row in audit.stream_rows(tx.session)
            ]
        checkpoints, forged = self._genuine(notes)
        # beside the event loop: a long log takes seconds
        finding = await asyncio.to_thread(verify_log, entries, checkpoints=checkpoints, witness=leaves, judge=judge)
        if finding.damage is None and forged:
            left_out = f"{forged} checkpoints carry no good signature and were left out"
            return replace(finding, detail="; ".join(filter(None, (finding.detail, left_out))))
        return finding

    def _judged(self, canonical: bytes) -> str | None:
        try:
            self._verifier.check(orjson.loads(canonical))
        except EntryRefused as refusal:
            return str(refusal)
        return None

    def _genuine(self, notes: list[str]) -> tuple[list[Checkpoint], int]:
        genuine: list[Checkpoint] = []
        for note in notes:
            try:
                genuine.append(read_checkpoint(note, public_key=self._signer.public_key, verify=self._signer.verifies))
            except CheckpointInvalid:
                continue
        return genuine, len(notes) - len(genuine)

    async def prove(self, caller: Caller, entry_id: str) -> InclusionProof:
        """Prove that an entry is in the log, against a checkpoint made now if need be.

        Raises:
            NotFound: No such entry has reached the log (yet), or it is another tenant's.
        """
        clauses = await self._access.visible(caller, "audit:log.prove")
        tenants = {clause["tenant"] for clause in clauses}
        await self._sequencer.checkpoint()
        async with self._database.transaction() as tx:
            row = await audit.find_entry(tx.session, entry_id)
            note = await audit.newest_checkpoint(tx.session)
            if row is None or note is None or not tenants & {None, row.tenant}:
                raise NotFound(f"The audit log has no entry {entry_id} (yet).", code="audit_entry_not_found")
            checkpoint = read_checkpoint(note, public_key=self._signer.public_key, verify=self._signer.verifies)
            leaves = await audit.leaf_hashes(tx.session, checkpoint.size)
        return InclusionProof(
            index=row.index,
            canonical=row.canonical,
            leaf=row.leaf_hash,
            proof=inclusion_proof(leaves, row.index),
            checkpoint=note,
            size=checkpoint.size,
            public_key=self._signer.public_key,
            service_key=self._verifier.signed_with(orjson.loads(row.canonical)),
        )

    async def consistency(self, old_size: int, size: int | None = None) -> dict[str, Any]:
        """Prove that the log of `size` entries extends the log of `old_size`.

        Args:
            old_size: Entries of the earlier log, at least 1.
            size: Entries of the later log; those of a checkpoint made now when absent.

        Raises:
            NotFound: The log was never that large.
        """
        await self._sequencer.checkpoint()
        async with self._database.transaction() as tx:
            notes = {_size_of(note): note for note in await audit.list_checkpoints(tx.session)}
            newest = max(notes, default=0)
            size = size or newest
            if not 1 <= old_size <= size <= newest:
                raise NotFound(
                    f"The log has {newest} signed entries; there is no way from {old_size} to {size}.",
                    code="audit_size_unknown",
                )
            leaves = await audit.leaf_hashes(tx.session, size)
        return {
            "old_size": old_size,
            "old_root": base64.b64encode(root_of(leaves[:old_size])).decode(),
            "size": size,
            "root": base64.b64encode(root_of(leaves)).decode(),
            "proof": [base64.b64encode(step).decode() for step in consistency_proof(leaves, old_size)],
            "old_checkpoint": notes.get(old_size),
            "checkpoint": notes.get(size),
            "public_key": base64.b64encode(self._signer.public_key).decode(),
        }

    async def checkpoints(self) -> list[str]:
        """List every signed checkpoint by size, the last one made now if need be."""
        await self._sequencer.checkpoint()
        async with self._database.transaction() as tx:
            return await audit.list_checkpoints(tx.session)

    async def export(self, caller: Caller, *, first: int) -> AsyncIterator[bytes]:
        """Give the entries that the caller may see as ECS documents, one JSON line each."""
        conditions = [await self._visible(caller)]
        after = first - 1
        while True:
            async with self._database.transaction() as tx:
                rows = await audit.page_after(tx.session, conditions, after=after)
            for row in rows:
                yield orjson.dumps(ecs_document(row), option=orjson.OPT_APPEND_NEWLINE)
            if not rows:
                return
            after = rows[-1].index


def _size_of(note: str) -> int:
    return int(note.split("\n", 2)[1])


def _conditions(wanted: AuditSearch) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.actor:
        conditions.append(audit_log.c.actor == wanted.actor)
    if wanted.action:
        conditions.append(audit_log.c.action == wanted.action)
    if wanted.resource:
        conditions.append(audit_log.c.resource.startswith(wanted.resource, autoescape=True))
    if wanted.since:
        conditions.append(audit_log.c.at >= wanted.since)
    if wanted.until:
        conditions.append(audit_log.c.at < wanted.until)
    return conditions


def ecs_document(row: AuditRow) -> dict[str, Any]:
    """Write one entry in the Elastic Common Schema (8.x), for ELK and OpenSearch."""
    entry = orjson.loads(row.canonical)
    return {
        "@timestamp": entry["time"],
        "ecs": {"version": "8.11"},
        "event": {
            "id": row.entry_id,
            "kind": "event",
            "category": ["iam" if row.action.startswith("admin:") else "configuration"],
            "type": ["change"],
            "action": row.action,
            "outcome": "success" if entry["outcome"] == "success" else "failure",
            "sequence": row.index,
            "hash": row.leaf_hash.hex(),
            "dataset": "clave.audit",
        },
        "service": {"name": entry["service"]},
        "user": {"name": row.actor, "effective": {"name": entry.get("on_behalf_of") or row.actor}},
        "organization": {"id": row.tenant},
        "clave": {
            "resource": row.resource,
            "decision_id": entry.get("decision_id"),
            "details": entry.get("details", {}),
            "signature": entry.get(SIGNATURE),
        },
    }
