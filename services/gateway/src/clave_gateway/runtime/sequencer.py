"""The audit log's sequencer: turns the entries of every service into one ordered Merkle log with signed checkpoints.

Entries come from each service's outbox through its stream, at least once; an entry's id, which its service signed with
the rest, makes taking it twice harmless. What the service that it names did not sign is left out, counted and logged.
A lock in Postgres makes one gateway the sequencer of a batch, however many there are. Checkpoints and leaf hashes also
go to the witness: files outside of the database.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from clave_common.audit_signatures import FORGERIES, MALFORMED, AuditVerifier, EntryRefused, SignedEntry
from clave_common.background import Background
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.logs import get_logger
from clave_common.streams import Entry
from prometheus_client import Counter, Gauge
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_gateway.domain.checkpoints import Checkpoint, sign_checkpoint
from clave_gateway.domain.merkle import leaf_hash
from clave_gateway.signing import GatewaySigner
from clave_gateway.storage import audit
from clave_gateway.storage.audit import AuditRow

GROUP = "sequencer"
CHECKPOINT_LOOP = "audit_checkpoints"
_CHECKPOINT_S = 5.0
_LEAF_BYTES = 32
_COLUMN_CHARACTERS_MAX = 500  # an index of Postgres holds no more than some 2,700 bytes
ID_DIFFERS = "id_differs"
APPENDED = Counter("clave_audit_entries_total", "Entries appended to the audit log.")
REFUSED = Counter("clave_audit_entries_malformed_total", "Entries of the audit streams that were no audit entries.")
FORGED = Counter(
    "clave_audit_entries_forged_total",
    "Entries of the audit streams that the service they name did not sign.",
    ["reason"],
)
for _reason in (*FORGERIES, ID_DIFFERS):
    FORGED.labels(_reason)  # a series that begins at its first event shows no increase
SIZE = Gauge("clave_audit_log_size", "Entries of the audit log.")
_log = get_logger(__name__)


class Witness:
    """The second place: checkpoints and leaf hashes in files, written after the database has committed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._leaves = folder / "leaves"

    def leaves(self) -> list[bytes]:
        """Return the recorded leaf hashes by index."""
        if not self._leaves.exists():
            return []
        raw = self._leaves.read_bytes()
        return [raw[at : at + _LEAF_BYTES] for at in range(0, len(raw) - _LEAF_BYTES + 1, _LEAF_BYTES)]

    def size(self) -> int:
        """Return the number of recorded leaves."""
        return self._leaves.stat().st_size // _LEAF_BYTES if self._leaves.exists() else 0

    def record_leaves(self, first: int, leaves: Sequence[bytes]) -> None:
        """Append leaf hashes that are not recorded yet."""
        self._folder.mkdir(parents=True, exist_ok=True)
        known = self.size()
        fresh = leaves[max(known - first, 0) :] if first <= known else ()
        if fresh:
            with self._leaves.open("ab") as file:
                file.write(b"".join(fresh))

    def record_checkpoint(self, size: int, note: str) -> None:
        """Keep a checkpoint; an existing one is never overwritten."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{size:020d}.note"
        if not path.exists():
            draft = path.with_suffix(".draft")
            draft.write_text(note)
            draft.replace(path)

    def checkpoints(self) -> list[str]:
        """Return every recorded checkpoint by size."""
        return [path.read_text() for path in sorted(self._folder.glob("*.note"))]


class Sequencer:
    """Appends entries and signs checkpoints."""

    def __init__(
        self,
        database: Database,
        signer: GatewaySigner,
        witness: Witness,
        *,
        origin: str,
        clock: Clock,
        verifier: AuditVerifier,
    ) -> None:
        self._database = database
        self._signer = signer
        self._witness = witness
        self._origin = origin
        self._clock = clock
        self._verifier = verifier

    async def append(self, entries: Sequence[Entry]) -> None:
        """Append a batch of the audit stream (a `StreamConsumer` handler)."""
        leaves: list[bytes] = []
        # beside the event loop: a batch's signatures take some 20 ms
        signed = await asyncio.to_thread(lambda: [each for each in map(self._checked, entries) if each is not None])
        async with self._database.transaction() as tx:
            await audit.lock_log(tx.session)
            known = await audit.known_entries(tx.session, [entry.id for entry, _ in signed])
            frontier = await audit.read_frontier(tx.session)
            first, rows = frontier.size, []
            for entry, checked in signed:
                row = self._row(entry, checked, frontier.size) if entry.id not in known else None
                if row is None:
                    continue
                known.add(entry.id)
                rows.append(row)
                frontier = frontier.append(row.leaf_hash)
            if rows:
                await audit.append_rows(tx.session, rows)
                await audit.write_frontier(tx.session, frontier)
            leaves = [row.leaf_hash for row in rows]
        if leaves:
            APPENDED.inc(len(leaves))
            SIZE.set(frontier.size)
            self._witness.record_leaves(first, leaves)

    def _checked(self, entry: Entry) -> tuple[Entry, SignedEntry] | None:
        """Check who signed an entry; its id in the stream, which nobody signs, must be the one inside."""
        try:
            checked = self._verifier.checked(entry.body)
        except EntryRefused as refusal:
            self._leave_out(entry, str(refusal))
            return None
        if checked.fields.get("id") != entry.id:
            self._leave_out(entry, ID_DIFFERS)
            return None
        return entry, checked

    def _leave_out(self, entry: Entry, reason: str) -> None:
        if reason == MALFORMED:
            REFUSED.inc()
        else:
            FORGED.labels(reason).inc()
        _log.error(
            "audit_entry_malformed" if reason == MALFORMED else "audit_entry_forged",
            reason=reason,
            entry_id=entry.id,
            stream=entry.stream,
            position=entry.position.decode(errors="replace"),
        )

    def _row(self, entry: Entry, checked: SignedEntry, index: int) -> AuditRow | None:
        fields = checked.fields
        try:
            return AuditRow(
                index=index,
                entry_id=entry.id,
                canonical=checked.canonical,
                leaf_hash=leaf_hash(checked.canonical),
                tenant=_column(fields["tenant"]),
                actor=_column(fields["actor"]),
                action=_column(fields["action"]),
                resource=_column(fields["resource"]),
                at=datetime.fromisoformat(fields["time"]),
                recorded_at=self._clock.now(),
            )
        except (KeyError, TypeError, ValueError):
            self._leave_out(entry, MALFORMED)
            return None

    async def checkpoint(self) -> str | None:
        """Sign the log as it stands; None when it is empty or nothing is new.

        Returns:
            The signed note.
        """
        async with self._database.transaction() as tx:
            frontier = await audit.read_frontier(tx.session)
            if frontier.size == 0:
                return None
            note = sign_checkpoint(
                Checkpoint(self._origin, frontier.size, frontier.root()),
                public_key=self._signer.public_key,
                sign=self._signer.sign,
            )
            new = await audit.add_checkpoint(
                tx.session, size=frontier.size, root=frontier.root(), note=note, at=self._clock.now()
            )
            await self._catch_up(tx.session, frontier.size)
        if not new:
            return None
        self._witness.record_checkpoint(frontier.size, note)
        return note

    async def _catch_up(self, session: AsyncConnection, size: int) -> None:
        """Give the witness the leaves it missed when the process died between commit and file."""
        known = self._witness.size()
        if known < size:
            leaves = await audit.leaf_hashes(session, size)
            self._witness.record_leaves(known, leaves[known:])

    async def run_checkpoints(self, background: Background) -> None:
        """Sign a checkpoint whenever the log has grown, until cancelled."""
        while True:
            await asyncio.sleep(_CHECKPOINT_S)
            await self.checkpoint()
            background.healthy(CHECKPOINT_LOOP)


def _column(value: object) -> str:
    """Make a value fit a column that is searched; the leaf itself keeps it as it came."""
    return str(value).replace("\0", "\N{REPLACEMENT CHARACTER}")[:_COLUMN_CHARACTERS_MAX]
