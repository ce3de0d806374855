"""Turn boosted trees into the attributes of one ONNX ``TreeEnsembleRegressor``.

Rules that XGBoost applies and the operator must repeat: a value strictly less than the split point goes left; a
missing value takes the node's default side; a category in the node's set goes right, every other one, known or
not, goes left.
"""

from typing import Any

from clave_trainer.runtime.booster_json import Learner, categories_of

_LEAF = -1
NODE_KEYS = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_values",
    "nodes_hitrates",
    "nodes_modes",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "nodes_missing_value_tracks_true",
)
TARGET_KEYS = ("target_treeids", "target_nodeids", "target_ids", "target_weights")


class _Attributes:
    """Columns of the operator's attributes, grown row by row."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {key: [] for key in NODE_KEYS + TARGET_KEYS}

    def node(self, *values: Any) -> None:
        for key, value in zip(NODE_KEYS, values, strict=True):
            self.columns[key].append(value)

    def leaf(self, *values: Any) -> None:
        for key, value in zip(TARGET_KEYS, values, strict=True):
            self.columns[key].append(value)


def tree_attributes(learner: Learner) -> dict[str, list[Any]]:
    """Flatten all trees of a learner.

    Args:
        learner: A tree booster.

    Returns:
        The operator's parallel attribute lists.
    """
    attributes = _Attributes()
    for number, tree in enumerate(learner.trees):
        weight = learner.tree_weights[number] if learner.tree_weights else 1.0
        _add_tree(attributes, number, tree, group=learner.groups[number], weight=weight)
    return attributes.columns


def _add_tree(out: _Attributes, number: int, tree: dict[str, Any], *, group: int, weight: float) -> None:
    left, right = tree["left_children"], tree["right_children"]
    feature, value, default_left = tree["split_indices"], tree["split_conditions"], tree["default_left"]
    categories = categories_of(tree)
    spare = len(left)  # identifiers for the extra nodes of category chains
    for node in range(len(left)):
        if left[node] == _LEAF:
            out.node(number, node, 0, 0.0, 1.0, "LEAF", 0, 0, 0)
            _add_leaf(out, number, node, tree, group=group, weight=weight)
        elif node in categories:
            spare = _add_category_chain(out, number, node, tree, members=categories[node], spare=spare)
        else:
            missing_left = int(default_left[node])
            out.node(number, node, feature[node], value[node], 1.0, "BRANCH_LT", left[node], right[node], missing_left)


def _add_leaf(out: _Attributes, number: int, node: int, tree: dict[str, Any], *, group: int, weight: float) -> None:
    width = int(tree["tree_param"].get("size_leaf_vector", "1"))
    if width <= 1:
        out.leaf(number, node, group, tree["split_conditions"][node] * weight)
        return
    first = tree["right_children"][node] * width  # a vector leaf names its row there
    for target in range(width):
        out.leaf(number, node, target, tree["leaf_weights"][first + target] * weight)


def _add_category_chain(
    out: _Attributes, number: int, node: int, tree: dict[str, Any], *, members: list[int], spare: int
) -> int:
    """Write one equality test per member; the chain's end goes left. Returns the next spare identifier."""
    feature = tree["split_indices"][node]
    left, right = tree["left_children"][node], tree["right_children"][node]
    missing_right = int(not tree["default_left"][node])
    current = node
    for member in members[:-1]:
        out.node(number, current, feature, float(member), 1.0, "BRANCH_EQ", right, spare, missing_right)
        current, spare = spare, spare + 1
    out.node(number, current, feature, float(members[-1]), 1.0, "BRANCH_EQ", right, left, missing_right)
    return spare
