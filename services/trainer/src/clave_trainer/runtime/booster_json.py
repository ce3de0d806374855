"""Read a booster's own JSON into the parts that an export needs.

XGBoost stores a model as JSON with all numbers that `predict` uses. Reading it, instead of guessing from the
class that wrapped the booster, is what keeps objectives, base scores and output shapes right. Written for the
layout of XGBoost 3.x; other major versions are refused.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from clave_common.errors import FailedPrecondition

from clave_trainer.domain.arrays import Floats

_MAJOR = 3


class BoosterUnsupported(FailedPrecondition):
    """The booster has a feature that no export reproduces."""

    code = "booster_unsupported"


@dataclass(frozen=True)
class Learner:
    """What a booster consists of.

    Attributes:
        objective: Its name, such as ``binary:logistic``.
        features: Number of input features.
        outputs: Number of margins per row.
        base_score: As stored, one value or one per output.
        trees: Tree objects of the kept rounds; empty for a linear booster.
        groups: Output that each tree adds to.
        tree_weights: DART's weight of each tree, or None.
        linear: Weights of a linear booster, shape (features + 1, outputs), last row the bias; or None.
    """

    objective: str
    features: int
    outputs: int
    base_score: Floats
    trees: list[dict[str, Any]]
    groups: list[int]
    tree_weights: list[float] | None
    linear: Floats | None


def read_learner(document: bytes | bytearray, *, rounds: int | None = None) -> Learner:
    """Parse a booster.

    Args:
        document: `Booster.save_raw("json")`.
        rounds: Boosting rounds to keep (best iteration + 1 after early stopping); all when None.

    Raises:
        BoosterUnsupported: Another major version, or rounds asked of a linear booster.
    """
    whole = json.loads(document)
    if whole.get("version", [0])[0] != _MAJOR:
        detail = f"the booster was saved by XGBoost {whole.get('version')}; this exporter reads version {_MAJOR}"
        raise BoosterUnsupported(detail)
    learner = whole["learner"]
    params, gradient = learner["learner_model_param"], learner["gradient_booster"]
    features = int(params["num_feature"])
    outputs = max(int(params["num_class"]), int(params["num_target"]), 1)
    base = _base_score(params["base_score"])
    objective = learner["objective"]["name"]
    if gradient["name"] == "gblinear":
        if rounds is not None:
            raise BoosterUnsupported("a linear booster keeps no rounds; train it without early stopping")
        weights = np.array(gradient["model"]["weights"], dtype=np.float64).reshape(features + 1, outputs)
        # XGBoost 3 adds the first class's base score to every class of a linear booster.
        return Learner(objective, features, outputs, base[:1], [], [], None, weights)
    tree_weights = None
    if gradient["name"] == "dart":
        tree_weights, gradient = gradient["weight_drop"], gradient["gbtree"]
    model = gradient["model"]
    kept = model["iteration_indptr"][rounds] if rounds is not None else len(model["trees"])
    groups = model["tree_info"][:kept]
    outputs = max(outputs, max(groups, default=0) + 1)
    return Learner(objective, features, outputs, base, model["trees"][:kept], groups, tree_weights, None)


def _base_score(stored: str) -> Floats:
    """Read the base score: a bracketed vector since XGBoost 3.1, one number before."""
    values = json.loads(stored) if stored.startswith("[") else [float(stored)]
    return np.array(values, dtype=np.float64)


def categories_of(tree: dict[str, Any]) -> dict[int, list[int]]:
    """Return the category set of each categorical split node of a tree."""
    segments = zip(
        tree.get("categories_nodes", []),
        tree.get("categories_segments", []),
        tree.get("categories_sizes", []),
        strict=True,
    )
    return {node: sorted(set(tree["categories"][start : start + size])) for node, start, size in segments}


def split_points(learner: Learner) -> dict[int, np.ndarray[Any, np.dtype[np.float32]]]:
    """Collect the distinct split points of each feature: where an export is most likely to differ."""
    points: dict[int, set[float]] = {}
    for tree in learner.trees:
        categories = categories_of(tree)
        for node, left in enumerate(tree["left_children"]):
            if left == -1:
                continue
            values = categories.get(node, [tree["split_conditions"][node]])
            points.setdefault(tree["split_indices"][node], set()).update(float(value) for value in values)
    return {feature: np.array(sorted(values), dtype=np.float32) for feature, values in points.items()}
