"""Why a tree ensemble scored a row as it did: exact path-dependent Shapley values, from tables, without XGBoost.

What it decides: how much each column adds to the margin of one row, exactly as XGBoost's ``pred_contribs`` defines it.

For a leaf of value v with d distinct columns on its path, let z_k be the product of the cover ratios child / parent
over the path's tests on column k, and o_k be 1 if the row passes all of these tests, else 0. The leaf adds to column k

    v (o_k - z_k) * sum over subsets S of the other columns of
        |S|! (d - |S| - 1)! / d! * product over S of o_i * product over the rest of z_i

The sum depends on the row only through the bits o, so it is tabulated beforehand: 2^d patterns times d values a leaf. A
row then evaluates every split once, finds each leaf's pattern with one gather per level of the tree, and adds up.

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
"""Distinct columns on one path; a table has 2^d rows, and a pattern must fit a byte."""
PATH_STEPS_MAX: Final = 32
TABLE_CELLS_MAX: Final = 64_000_000
_ROWS_AT_ONCE: Final = 16


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
        fail_index: Per level and leaf, which entry of (went right, went left) means that the path is left; shape
            (levels, n_leaves). Leaves with fewer levels point at an entry that is always 0.
        fail_bit: Bit of the column that fails with it, shape (levels, n_leaves), uint8.
        cell_leaf: Leaf of each (leaf, column) pair in column order, shape (n_pairs,).
        cell_offset: Place of the pair in its leaf's table rows, shape (n_pairs,).
        column_start: First pair of each column that occurs, shape (n_used,).
        used: These columns, shape (n_used,).
        leaf_start: First cell of each leaf's table, shape (n_leaves,).
        leaf_width: Distinct columns on each leaf's path, shape (n_leaves,).
        table: Cells by leaf, pattern, column, shape (n_cells,), float32.
        base_value: Margin that no column explains.
        columns: Columns of the model's input.
    """

    node_column: NDArray[np.int32]
    node_threshold: NDArray[np.float32]
    node_default_left: NDArray[np.bool_]
    fail_index: NDArray[np.int32]
    fail_bit: NDArray[np.uint8]
    cell_leaf: NDArray[np.int32]
    cell_offset: NDArray[np.int32]
    column_start: NDArray[np.int64]
    used: NDArray[np.int32]
    leaf_start: NDArray[np.int64]
    leaf_width: NDArray[np.int32]
    table: NDArray[np.float32]
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
                contributions[start : start + len(block), self.used] = self._explain_block(block).T
        return contributions

    def _explain_block(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Explain a few rows side by side, so that every gather copies runs of memory; shape (n_used, n_rows)."""
        nodes = len(self.node_column)
        values = np.take(rows.T, self.node_column, axis=0)
        left = values < self.node_threshold[:, None]
        left |= np.isnan(values) & self.node_default_left[:, None]
        went = np.zeros((2 * nodes + 1, len(rows)), np.uint8)
        np.logical_not(left, out=went[:nodes], casting="unsafe")
        went[nodes : 2 * nodes] = left
        failed = np.zeros((len(self.leaf_start), len(rows)), np.uint8)
        for index, bit in zip(self.fail_index, self.fail_bit, strict=True):
            step = np.take(went, index, axis=0)
            step *= bit[:, None]
            failed |= step
        every = ((1 << self.leaf_width) - 1).astype(np.uint8)
        first_cell = (failed ^ every[:, None]).astype(np.int32)
        first_cell *= self.leaf_width[:, None]
        first_cell += self.leaf_start.astype(np.int32)[:, None]
        cells = np.take(first_cell, self.cell_leaf, axis=0)
        cells += self.cell_offset[:, None]
        return np.add.reduceat(np.take(self.table, cells), self.column_start, axis=0, dtype=np.float64)


@dataclass(slots=True)
class _Leaf:
    value: float
    columns: list[int]
    cover: list[float]
    steps: list[tuple[int, bool, int]]


def build_tables(trees: Sequence[Tree], *, base_margin: float, columns: int) -> Tables:
    """Flatten an ensemble.

    Args:
        trees: Of one output.
        base_margin: The ensemble's base score, on the margin's scale.
        columns: Columns of the model's input.

    Raises:
        NotExplainable: Paths are too long, or the tables would be too large.
    """
    leaves: list[_Leaf] = []
    node_column: list[NDArray[np.int32]] = []
    node_threshold: list[NDArray[np.float32]] = []
    node_default: list[NDArray[np.bool_]] = []
    first_node = 0
    for tree in trees:
        internal = np.flatnonzero(tree.left != -1)
        place = np.full(len(tree.left), -1, np.int64)
        place[internal] = first_node + np.arange(len(internal))
        first_node += len(internal)
        node_column.append(tree.column[internal])
        node_threshold.append(tree.threshold[internal])
        node_default.append(tree.default_left[internal])
        leaves += _leaves(tree, place)
    cells = sum(len(leaf.columns) << len(leaf.columns) for leaf in leaves)
    if cells > TABLE_CELLS_MAX:
        raise NotExplainable(f"its tables would hold {cells} cells, at most {TABLE_CELLS_MAX} are kept")
    fail_index, fail_bit = _failures(leaves, first_node)
    pairs = sorted((column, i, k) for i, leaf in enumerate(leaves) for k, column in enumerate(leaf.columns))
    pair_column = np.array([column for column, _, _ in pairs], np.int32)
    used, column_start = np.unique(pair_column, return_index=True)
    sizes = [len(leaf.columns) << len(leaf.columns) for leaf in leaves]
    return Tables(
        node_column=_joined(node_column, np.int32),
        node_threshold=_joined(node_threshold, np.float32),
        node_default_left=_joined(node_default, np.bool_),
        fail_index=fail_index,
        fail_bit=fail_bit,
        cell_leaf=np.array([leaf for _, leaf, _ in pairs], np.int32),
        cell_offset=np.array([k for _, _, k in pairs], np.int32),
        column_start=column_start.astype(np.int64),
        used=used.astype(np.int32),
        leaf_start=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64),
        leaf_width=np.array([len(leaf.columns) for leaf in leaves], np.int32),
        table=np.concatenate([_leaf_table(leaf).ravel() for leaf in leaves]).astype(np.float32),
        base_value=base_margin + sum(leaf.value * math.prod(leaf.cover) for leaf in leaves),
        columns=columns,
    )


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([*parts, np.empty(0, dtype)]).astype(dtype)


def _leaves(tree: Tree, place: NDArray[np.int64]) -> Iterator[_Leaf]:
    """Walk one tree; a step is (internal node, went left, position of its column in the leaf)."""
    waiting: list[tuple[int, list[tuple[int, bool, float]]]] = [(0, [])]
    while waiting:
        node, path = waiting.pop()
        left, right = int(tree.left[node]), int(tree.right[node])
        if left != -1:
            if len(path) >= PATH_STEPS_MAX:
                raise NotExplainable(f"a path has more than {PATH_STEPS_MAX} tests")
            for child, went_left in ((left, True), (right, False)):
                share = float(tree.cover[child]) / float(tree.cover[node])
                waiting.append((child, [*path, (node, went_left, share)]))
            continue
        leaf = _Leaf(float(tree.threshold[node]), [], [], [])
        for split, went_left, share in path:
            column = int(tree.column[split])
            if column not in leaf.columns:
                leaf.columns.append(column)
                leaf.cover.append(1.0)
            k = leaf.columns.index(column)
            leaf.cover[k] *= share
            leaf.steps.append((int(place[split]), went_left, k))
        if len(leaf.columns) > PATH_COLUMNS_MAX:
            raise NotExplainable(f"a path tests more than {PATH_COLUMNS_MAX} columns")
        yield leaf


def _failures(leaves: list[_Leaf], nodes: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    levels = max((len(leaf.steps) for leaf in leaves), default=0)
    index = np.full((levels, len(leaves)), 2 * nodes, np.int32)
    bit = np.zeros((levels, len(leaves)), np.uint8)
    for i, leaf in enumerate(leaves):
        for level, (node, went_left, k) in enumerate(leaf.steps):
            index[level, i] = node if went_left else nodes + node  # a left step fails where the row went right
            bit[level, i] = 1 << k
    return index, bit


def _leaf_table(leaf: _Leaf) -> NDArray[np.float64]:
    """Give the contributions for every pattern of passed columns, shape (2^d, d)."""
    d = len(leaf.columns)
    passed = ((np.arange(1 << d)[:, None] >> np.arange(d)) & 1).astype(float)
    weights = [math.factorial(s) * math.factorial(d - s - 1) / math.factorial(d) for s in range(d)]
    table = np.empty((1 << d, d))
    for k in range(d):
        by_size = np.zeros((1 << d, d))  # coefficients of y^s in the product of (z_i + o_i y), i other than k
        by_size[:, :1] = 1.0
        for i in range(d):
            if i != k:
                with_i = by_size[:, :-1] * passed[:, i : i + 1]
                by_size *= leaf.cover[i]
                by_size[:, 1:] += with_i
        table[:, k] = leaf.value * (passed[:, k] - leaf.cover[k]) * (by_size @ weights)
    return table
