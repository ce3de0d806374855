"""The audit log's sequencer: turns the entries of every service into one ordered Merkle log with signed checkpoints.

Entries come from each service's outbox through the stream `clave.audit`, at least once; an entry's id makes taking it
twice harmless. A lock in Postgres makes one gateway the sequencer of a batch, however many there are. Checkpoints
and leaf hashes also go to the witness: files outside of the database.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import orjson
import rfc8785
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
APPENDED = Counter("clave_audit_entries_total", "Entries appended to the audit log.")
REFUSED = Counter("clave_audit_entries_malformed_total", "Entries of the audit stream that were no audit entries.")
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
        self, database: Database, signer: GatewaySigner, witness: Witness, *, origin: str, clock: Clock
    ) -> None:
        self._database = database
        self._signer = signer
        self._witness = witness
        self._origin = origin
        self._clock = clock

    async def append(self, entries: Sequence[Entry]) -> None:
        """Append a batch of the audit stream (a `StreamConsumer` handler)."""
        leaves: list[bytes] = []
        async with self._database.transaction() as tx:
            await audit.lock_log(tx.session)
            known = await audit.known_entries(tx.session, [entry.id for entry in entries])
            frontier = await audit.read_frontier(tx.session)
            first, rows = frontier.size, []
            for entry in entries:
                row = self._row(entry, frontier.size) if entry.id not in known else None
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

    def _row(self, entry: Entry, index: int) -> AuditRow | None:
        try:
            fields = orjson.loads(entry.body)
            canonical = rfc8785.dumps(fields)
            return AuditRow(
                index=index,
                entry_id=entry.id,
                canonical=canonical,
                leaf_hash=leaf_hash(canonical),
                tenant=_column(fields["tenant"]),
                actor=_column(fields["actor"]),
                action=_column(fields["action"]),
                resource=_column(fields["resource"]),
                at=datetime.fromisoformat(fields["time"]),
                recorded_at=self._clock.now(),
            )
        except (orjson.JSONDecodeError, rfc8785.CanonicalizationError, KeyError, TypeError, ValueError):
            REFUSED.inc()
            _log.error("audit_entry_malformed", entry_id=entry.id, position=entry.position.decode(errors="replace"))
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
