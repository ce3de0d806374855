"""Finds out whether the audit log was damaged, how, and where first.

What is compared: each stored entry with its stored leaf hash, the leaf hashes with the witness's own copy of them,
and the roots of both with every signed checkpoint. Damage is named:

* ``gap``        an index is missing in the middle: a row was deleted
* ``altered``    an entry no longer hashes to its leaf, or its leaf differs from the witness's or a checkpoint's
* ``truncated``  the log is shorter than a signed checkpoint says: its end was cut off
* ``forked``     two validly signed checkpoints contradict each other: the signer itself told two stories
* ``unsigned``   where signatures are asked for: the service that an entry names did not sign it. Entries from before
  services signed, at the log's beginning, are counted and pass

What it cannot show: whoever holds the signing key, the database and the witness's folder together can rewrite all of
them alike. Keep a copy of the checkpoints elsewhere.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from clave_gateway.domain.checkpoints import Checkpoint
from clave_gateway.domain.merkle import Frontier, leaf_hash


class Damage(StrEnum):
    """Kinds of damage."""

    GAP = "gap"
    ALTERED = "altered"
    TRUNCATED = "truncated"
    FORKED = "forked"
    UNSIGNED = "unsigned"


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One row of the log as it is found."""

    index: int
    canonical: bytes
    leaf: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """What verification found; no damage means that log, witness and checkpoints agree.

    Attributes:
        first_bad: Index of the first entry that cannot be trusted.
    """

    size: int
    root: bytes
    damage: Damage | None = None
    first_bad: int | None = None
    detail: str = ""


UNSIGNED_ENTRY = "unsigned"
Judge = Callable[[bytes], str | None]
"""Tells why an entry (its canonical JSON) does not carry its service's signature; `UNSIGNED_ENTRY` when it has none."""


@dataclass(slots=True)
class Signatures:
    """What is known of the entries' signatures while a log is walked.

    Attributes:
        judge: What judges one; None judges none.
        before: Entries from before the first signed one.
    """

    judge: Judge | None = None
    before: int = 0
    _began: bool = field(default=False, init=False)

    def fault_of(self, canonical: bytes) -> str | None:
        """Say what is wrong with an entry's signature, if anything is."""
        if self.judge is None:
            return None
        reason = self.judge(canonical)
        if reason == UNSIGNED_ENTRY and not self._began:
            self.before += 1
            return None
        self._began = True
        return reason


def contradiction(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return a checkpoint that contradicts another of the same size, if there is one."""
    roots: dict[int, bytes] = {}
    for checkpoint in checkpoints:
        if roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
            return checkpoint
    return None


def verify_log(
    entries: Iterable[StoredEntry],
    *,
    checkpoints: Sequence[Checkpoint],
    witness: Sequence[bytes],
    judge: Judge | None = None,
) -> Finding:
    """Verify a whole log.

    Args:
        entries: Rows by ascending index.
        checkpoints: Every checkpoint whose signature is good, from the database and from the witness.
        witness: Leaf hashes that the witness recorded, by index; may end earlier than the log.
        judge: Judges each entry's signature as well.
    """
    signatures = Signatures(judge)
    due = {checkpoint.size: checkpoint.root for checkpoint in checkpoints}
    fork = contradiction(checkpoints)
    frontier, confirmed = Frontier(), 0
    for entry in entries:
        fault = _fault_of(entry, frontier.size, witness, signatures)
        if fault is not None:
            return _found(frontier, fault[0], frontier.size, fault[1])
        frontier = frontier.append(entry.leaf)
        expected = due.get(frontier.size)
        if expected is not None and expected != frontier.root():
            kind = Damage.FORKED if fork and fork.size == frontier.size else Damage.ALTERED
            return _found(frontier, kind, confirmed, f"the root at {frontier.size} is not the signed one")
        if expected is not None:
            confirmed = frontier.size
    return _ending(frontier, max([*due, len(witness)], default=0), fork, signatures)


def _fault_of(
    entry: StoredEntry, expected_index: int, witness: Sequence[bytes], signatures: Signatures
) -> tuple[Damage, str] | None:
    if entry.index != expected_index:
        return Damage.GAP, f"entry {expected_index} is missing"
    if leaf_hash(entry.canonical) != entry.leaf:
        return Damage.ALTERED, "the entry does not hash to its leaf"
    if entry.index < len(witness) and witness[entry.index] != entry.leaf:
        return Damage.ALTERED, "the leaf differs from the witness's copy"
    reason = signatures.fault_of(entry.canonical)
    return None if reason is None else (Damage.UNSIGNED, f"the service that it names did not sign it: {reason}")


def _ending(frontier: Frontier, promised: int, fork: Checkpoint | None, signatures: Signatures) -> Finding:
    if frontier.size < promised:
        return _found(frontier, Damage.TRUNCATED, frontier.size, f"{promised} entries were signed or witnessed")
    if fork is not None:
        return _found(frontier, Damage.FORKED, fork.size, f"two signed roots for {fork.size} entries")
    told = f"{signatures.before} entries are from before services signed" if signatures.before else ""
    return Finding(frontier.size, frontier.root(), detail=told)


def _found(frontier: Frontier, damage: Damage, first_bad: int, detail: str) -> Finding:
    return Finding(frontier.size, frontier.root(), damage, first_bad, detail)
