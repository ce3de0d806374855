"""Why a tree ensemble scored a row as it did: exact path-dependent Shapley values, from tables, without XGBoost.

What it decides: how much each column adds to the margin of one row, exactly as XGBoost's ``pred_contribs`` defines it.

For a leaf of value v with d distinct columns on its path, let z_k be the product of the cover ratios child / parent
over the path's tests on column k, and o_k be 1 if the row passes all of these tests, else 0. The leaf adds to column k

    v (o_k - z_k) * sum over subsets S of the other columns of
        |S|! (d - |S| - 1)! / d! * product over S of o_i * product over the rest of z_i

The sum depends on the row only through the bits o, so it can be tabulated. Leaves below one node share the tests above
it, and each test below it splits all of them at once; so the leaves of a whole subtree share one table, a *block*: one
bit per column tested above the subtree, one bit per test inside it, and for every pattern of bits what the subtree adds
to each column on its paths. A row evaluates every split once, finds the pattern of each block with one gather per bit,
copies one run of numbers per block, and adds up by column. Blocks of four leaves need a third of the gathers of single
leaves and no more memory.

Source: Lundberg et al. (2020), From local explanations to global understanding with explainable AI for trees, Nature
Machine Intelligence 2, section "TreeExplainer"; Yang (2021), Fast TreeSHAP, for the tabulation.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PATH_COLUMNS_MAX: Final = 8
"""Distinct columns on one path, and on all paths of a block."""
BLOCK_BITS_MAX: Final = 8
"""Bits of a block's pattern; a pattern fits a byte."""
SUBTREE_TESTS_MAX: Final = 3
"""Tests inside a block; more would double its table with each while they save ever fewer gathers."""
PATH_STEPS_MAX: Final = 32
TABLE_CELLS_MAX: Final = 64_000_000
SLOTS: Final = PATH_COLUMNS_MAX
_LINE: Final = np.dtype((np.void, SLOTS * 4))  # one line of a table, copied as one element
_ROWS_AT_ONCE: Final = 16
_PART_PLACES_MAX: Final = 32
_LEAVES_AT_ONCE: Final = 64


class NotExplainable(Exception):
    """The ensemble is of a kind that the tables cannot hold; says which."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One regression tree; arrays over its nodes.

    Attributes:
        left: Child taken when the value is below the threshold; -1 at a leaf.
        right: The other child.
        column: Column that a node tests.
        threshold: What it compares with; at a leaf, the leaf's value.
        default_left: Where a missing value goes.
        cover: Sum of hessians of the training rows that reached a node.
    """

    left: NDArray[np.int32]
    right: NDArray[np.int32]
    column: NDArray[np.int32]
    threshold: NDArray[np.float32]
    default_left: NDArray[np.bool_]
    cover: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tables:
    """An ensemble flattened for explanation.

    Attributes:
        node_column: Column of each internal node, shape (n_nodes,).
        node_threshold: Shape (n_nodes,), float32.
        node_default_left: Shape (n_nodes,).
        fail_index: Per round and (block, column above it) pair, which entry of (went right, went left) means that the
            column's tests fail; shape (rounds, n_pairs). Pairs with fewer tests point at an entry that is always 0.
        bit_source: Per bit and block, which entry of (went right, went left, 0, failures) is the bit; shape
            (bits, n_blocks).
        block_start: First line of each block's table, shape (n_blocks,).
        table: What a block adds to its columns by pattern of bits, shape (n_lines, SLOTS), float32.
        slot: Places in (block, slot) order, sorted by column, shape (n_places,).
        part_start: First place of each part, shape (n_parts,); a part is a few places of one column, added up in
            float32, and the parts are added up in float64.
        column_start: First part of each column that occurs, shape (n_used,).
        used: These columns, shape (n_used,).
        base_value: Margin that no column explains.
        columns: Columns of the model's input.
    """

    node_column: NDArray[np.int32]
    node_threshold: NDArray[np.float32]
    node_default_left: NDArray[np.bool_]
    fail_index: NDArray[np.int32]
    bit_source: NDArray[np.int32]
    block_start: NDArray[np.int32]
    table: NDArray[np.float32]
    slot: NDArray[np.int32]
    part_start: NDArray[np.int64]
    column_start: NDArray[np.int64]
    used: NDArray[np.int32]
    base_value: float
    columns: int

    def explain(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Explain rows.

        Args:
            rows: Model inputs, shape (n_rows, columns), NaN = missing.

        Returns:
            Contributions to the margin, shape (n_rows, columns); with `base_value` they add up to it.
        """
        contributions = np.zeros((len(rows), self.columns))
        if len(self.used):
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                block = rows[start : start + _ROWS_AT_ONCE]
                contributions[start : start + len(block), self.used] = self._explain_some(block).T
        return contributions

    def _explain_some(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Explain a few rows side by side, so that every gather copies runs of memory; shape (n_used, n_rows)."""
        lines = self._patterns(rows)
        lines += self.block_start[:, None]
        whole_lines = self.table.view(_LINE).ravel()
        found = np.take(whole_lines, lines).view(np.float32).reshape(*lines.shape, SLOTS)
        by_slot = found.transpose(0, 2, 1).reshape(-1, len(rows))
        parts = np.add.reduceat(np.take(by_slot, self.slot, axis=0), self.part_start, axis=0)
        return np.add.reduceat(parts, self.column_start, axis=0, dtype=np.float64)

    def _patterns(self, rows: NDArray[np.float32]) -> NDArray[np.int32]:
        """Give each block's pattern of bits, shape (n_blocks, n_rows)."""
        nodes, pairs = len(self.node_column), self.fail_index.shape[1]
        values = np.take(rows.T, self.node_column, axis=0)
        left = values < self.node_threshold[:, None]
        if np.isnan(rows).any():
            left |= np.isnan(values) & self.node_default_left[:, None]
        bits = np.zeros((2 * nodes + 1 + pairs, len(rows)), np.uint8)
        np.logical_not(left, out=bits[:nodes], casting="unsafe")
        bits[nodes : 2 * nodes] = left
        failed = bits[2 * nodes + 1 :]
        for index in self.fail_index:
            failed |= np.take(bits, index, axis=0)
        pattern = np.zeros((len(self.block_start), len(rows)), np.uint8)
        for place, source in enumerate(self.bit_source):
            pattern |= np.take(bits, source, axis=0) << place
        return pattern.astype(np.int32)


@dataclass(frozen=True, slots=True)
class _Step:
    """A test on the way to a node: which node, whether its left branch is taken, its column, cover child / parent."""

    node: int
    left: bool
    column: int
    share: float


@dataclass(slots=True)
class _Block:
    """A subtree with one table.

    Attributes:
        above: The tests above it.
        inside: The internal nodes in it.
        leaves: Leaf value and all tests on its path, above first.
        columns: Distinct columns of all paths; the first `shared` are tested above.
    """

    above: tuple[_Step, ...]
    inside: list[int]
    leaves: list[tuple[float, tuple[_Step, ...]]]
    columns: list[int]
    shared: int

    @property
    def bits(self) -> int:
        return self.shared + len(self.inside)

    @property
    def fits(self) -> bool:
        return (
            self.bits <= BLOCK_BITS_MAX
            and len(self.inside) <= SUBTREE_TESTS_MAX
            and len(self.columns) <= PATH_COLUMNS_MAX
        )


def build_tables(trees: Sequence[Tree], *, base_margin: float, columns: int) -> Tables:
    """Flatten an ensemble.

    Args:
        trees: Of one output.
        base_margin: The ensemble's base score, on the margin's scale.
        columns: Columns of the model's input.

    Raises:
        NotExplainable: Paths are too long, or the tables would be too large.
    """
    blocks: list[tuple[_Block, NDArray[np.int64]]] = []
    internal_of: list[NDArray[np.int64]] = []
    nodes = cells = 0
    for tree in trees:
        internal = np.flatnonzero(tree.left != -1)
        place = np.full(len(tree.left), -1, np.int64)
        place[internal] = nodes + np.arange(len(internal))
        nodes += len(internal)
        internal_of.append(internal)
        for block in _blocks(tree):
            cells += PATH_COLUMNS_MAX << block.bits
            if cells > TABLE_CELLS_MAX:
                raise NotExplainable(f"its tables would hold more than {TABLE_CELLS_MAX} cells")
            blocks.append((block, place))
    fail_index, bit_source = _sources(blocks, nodes)
    tables = _block_tables([block for block, _ in blocks])
    owners = [(column, i * SLOTS + k) for i, (block, _) in enumerate(blocks) for k, column in enumerate(block.columns)]
    owners.sort()
    used, first, counts = np.unique(
        np.array([column for column, _ in owners], np.int32), return_index=True, return_counts=True
    )
    parts = [np.arange(start, start + count, _PART_PLACES_MAX) for start, count in zip(first, counts, strict=True)]
    expected = sum(
        value * math.prod(step.share for step in path) for block, _ in blocks for value, path in block.leaves
    )
    return Tables(
        node_column=_joined([tree.column[i] for tree, i in zip(trees, internal_of, strict=True)], np.int32),
        node_threshold=_joined([tree.threshold[i] for tree, i in zip(trees, internal_of, strict=True)], np.float32),
        node_default_left=_joined([tree.default_left[i] for tree, i in zip(trees, internal_of, strict=True)], np.bool_),
        fail_index=fail_index,
        bit_source=bit_source,
        block_start=np.cumsum([0, *(len(table) for table in tables)])[:-1].astype(np.int32),
        table=np.concatenate([*tables, np.empty((0, SLOTS), np.float32)]),
        slot=np.array([place for _, place in owners], np.int32),
        part_start=_joined(parts, np.int64),
        column_start=np.cumsum([0, *map(len, parts)])[:-1].astype(np.int64),
        used=used.astype(np.int32),
        base_value=base_margin + expected,
        columns=columns,
    )


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([*parts, np.empty(0, dtype)]).astype(dtype)


def _blocks(tree: Tree) -> Iterator[_Block]:
    """Divide a tree into blocks: the largest subtrees that fit."""
    waiting: list[tuple[int, tuple[_Step, ...]]] = [(0, ())]
    while waiting:
        node, above = waiting.pop()
        block = _subtree(tree, node, above)
        if block is not None and block.fits:
            yield block
        elif tree.left[node] == -1:
            raise NotExplainable(f"a path tests more than {PATH_COLUMNS_MAX} columns")
        else:
            waiting += [(child, (*above, step)) for child, step in _children(tree, node)]


def _children(tree: Tree, node: int) -> Iterator[tuple[int, _Step]]:
    for child, left in ((int(tree.left[node]), True), (int(tree.right[node]), False)):
        share = float(tree.cover[child]) / float(tree.cover[node])
        yield child, _Step(node, left, int(tree.column[node]), share)


def _subtree(tree: Tree, root: int, above: tuple[_Step, ...]) -> _Block | None:
    """Describe the subtree below a node; None where it holds too many tests."""
    if len(above) > PATH_STEPS_MAX:
        raise NotExplainable(f"a path has more than {PATH_STEPS_MAX} tests")
    columns = list(dict.fromkeys(step.column for step in above))
    block = _Block(above, [], [], columns, len(columns))
    waiting = [(root, above)]
    while waiting:
        node, path = waiting.pop()
        if tree.left[node] == -1:
            block.leaves.append((float(tree.threshold[node]), path))
            continue
        block.inside.append(node)
        if len(block.inside) > SUBTREE_TESTS_MAX:
            return None
        if int(tree.column[node]) not in columns:
            columns.append(int(tree.column[node]))
        waiting += [(child, (*path, step)) for child, step in _children(tree, node)]
    return block


def _sources(
    blocks: Sequence[tuple[_Block, NDArray[np.int64]]], nodes: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Say where every bit comes from; see `Tables`.

    A bit of a column tested above is 1 when one of its tests fails, a bit of a test inside is 1 when it goes right.
    """
    pairs: list[list[int]] = []
    source = np.full((max((block.bits for block, _ in blocks), default=0), len(blocks)), 2 * nodes, np.int32)
    known: dict[tuple[int, ...], int] = {}
    for i, (block, place) in enumerate(blocks):
        for k, column in enumerate(block.columns[: block.shared]):
            tests = [
                int(place[s.node]) if s.left else nodes + int(place[s.node]) for s in block.above if s.column == column
            ]
            if len(tests) == 1:
                source[k, i] = tests[0]
                continue
            if tuple(tests) not in known:
                known[tuple(tests)] = len(pairs)
                pairs.append(tests)
            source[k, i] = 2 * nodes + 1 + known[tuple(tests)]
        for k, node in enumerate(block.inside, block.shared):
            source[k, i] = place[node]
    index = np.full((max(map(len, pairs), default=0), len(pairs)), 2 * nodes, np.int32)
    for i, tests in enumerate(pairs):
        index[: len(tests), i] = tests
    return index, source


@dataclass(slots=True)
class _Leaf:
    """One leaf of a block.

    Attributes:
        cover: Product of the cover ratios of each column's tests.
        places: Slots of its columns in the block.
        code: Which columns pass, as bits, for every pattern of the block.
    """

    block: int
    value: float
    cover: list[float]
    places: list[int]
    code: NDArray[np.int64]


def _block_tables(blocks: Sequence[_Block]) -> list[NDArray[np.float32]]:
    """Give what every block adds to its columns by pattern, each of shape (2^bits, SLOTS)."""
    tables = [np.zeros((1 << block.bits, SLOTS)) for block in blocks]
    leaves: dict[int, list[_Leaf]] = {}
    for number, block in enumerate(blocks):
        for leaf in _leaves(number, block):
            leaves.setdefault(len(leaf.cover), []).append(leaf)
    for width, alike in leaves.items():
        for start in range(0, len(alike), _LEAVES_AT_ONCE):
            some = alike[start : start + _LEAVES_AT_ONCE]
            shares = _leaf_shares(np.array([leaf.cover for leaf in some]).reshape(len(some), width))
            for leaf, of_leaf in zip(some, shares, strict=True):
                tables[leaf.block][:, leaf.places] += leaf.value * of_leaf[leaf.code]
    return [table.astype(np.float32) for table in tables]


def _leaves(number: int, block: _Block) -> Iterator[_Leaf]:
    patterns = np.arange(1 << block.bits)
    bit = [(patterns >> k) & 1 == 0 for k in range(block.bits)]
    inside = {node: bit[block.shared + k] for k, node in enumerate(block.inside)}
    for value, path in block.leaves:
        columns = list(dict.fromkeys(step.column for step in path))
        cover = dict.fromkeys(columns, 1.0)
        passed = {column: bit[k] for k, column in enumerate(columns[: block.shared])}
        for step in path:
            cover[step.column] *= step.share
            if step.node in inside:
                passes = inside[step.node] if step.left else ~inside[step.node]
                passed[step.column] = passes & passed[step.column] if step.column in passed else passes
        code = np.zeros(len(patterns), np.int64)
        for k, column in enumerate(columns):
            code += passed[column].astype(np.int64) << k
        yield _Leaf(number, value, list(cover.values()), [block.columns.index(column) for column in columns], code)


def _leaf_shares(cover: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the Shapley values of leaves of value 1 for every pattern of passed columns.

    Args:
        cover: Product of the cover ratios of each column's tests, shape (n_leaves, d).

    Returns:
        Shape (n_leaves, 2^d, d).
    """
    leaves, d = cover.shape
    passed = ((np.arange(1 << d)[:, None] >> np.arange(d)) & 1).astype(float)
    weights = [math.factorial(s) * math.factorial(d - s - 1) / math.factorial(d) for s in range(d)]
    shares = np.empty((leaves, 1 << d, d))
    for k in range(d):
        by_size = np.zeros((d, leaves, 1 << d))  # coefficients of y^s in the product of (z_i + o_i y), i other than k
        by_size[0] = 1.0
        for i in range(d):
            if i != k:
                with_i = by_size[:-1] * passed[:, i]
                by_size *= cover[:, i, None]
                by_size[1:] += with_i
        shares[:, :, k] = (passed[:, k] - cover[:, k, None]) * np.tensordot(weights, by_size, axes=1)
    return shares
