"""The Merkle tree of RFC 6962: leaf and node hashes, roots, inclusion and consistency proofs.

Hashes are SHA-256. A leaf is hashed behind a zero byte and a node behind a one, so neither can pass for the other.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash one entry (RFC 6962, 2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """The roots of the perfect subtrees of a tree that only grows: all that appending needs.

    Attributes:
        size: Number of leaves.
        roots: One hash for each bit that is set in `size`, largest subtree first.
    """

    size: int = 0
    roots: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.roots) != self.size.bit_count():
            raise ValueError(f"{len(self.roots)} subtree roots do not make a tree of {self.size} leaves")

    def append(self, leaf: bytes) -> "Frontier":
        """Add one leaf hash; amortised one node hash."""
        roots = [*self.roots, leaf]
        merges = self.size
        while merges & 1:
            right = roots.pop()
            roots[-1] = node_hash(roots[-1], right)
            merges >>= 1
        return Frontier(self.size + 1, tuple(roots))

    def root(self) -> bytes:
        """The tree's root."""
        if not self.roots:
            return EMPTY_ROOT
        root = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            root = node_hash(left, root)
        return root


def _split(size: int) -> int:
    """The largest power of two below a size of at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    return frontier.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Hashes that lead from one leaf to the root, nearest first (RFC 6962, 2.1.1).

    Raises:
        ValueError: There is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"no leaf {index} in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*inclusion_proof(leaves[:middle], index), root_of(leaves[middle:])]
    return [*inclusion_proof(leaves[middle:], index - middle), root_of(leaves[:middle])]


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """Recompute the root that a proof leads to (RFC 9162, 2.1.3.2); None when the proof does not fit."""
    if not 0 <= index < size:
        return None
    position, last, root = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return None
        if position & 1 or position == last:
            root = node_hash(sibling, root)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            root = node_hash(root, sibling)
        position >>= 1
        last >>= 1
    return root if last == 0 else None


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Hashes that prove a tree to be an extension of its first `old_size` leaves (RFC 6962, 2.1.2).

    Raises:
        ValueError: The old size is not within 1..len(leaves).
    """
    if not 1 <= old_size <= len(leaves):
        raise ValueError(f"no tree of {old_size} inside one of {len(leaves)}")
    return _subproof(leaves, old_size, complete=True)


def _subproof(leaves: Sequence[bytes], old_size: int, *, complete: bool) -> list[bytes]:
    if old_size == len(leaves):
        return [] if complete else [root_of(leaves)]
    middle = _split(len(leaves))
    if old_size <= middle:
        return [*_subproof(leaves[:middle], old_size, complete=complete), root_of(leaves[middle:])]
    return [
        *_subproof(leaves[middle:], old_size - middle, complete=False),
        root_of(leaves[:middle]),
    ]


def consistent(*, old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Check a consistency proof (RFC 9162, 2.1.4.2)."""
    if old_size == size:
        return old_root == root and not proof
    if not 0 < old_size < size or not proof:
        return False
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    position, last = old_size - 1, size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old, new = path[0], path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == root
