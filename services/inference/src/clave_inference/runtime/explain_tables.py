"""Tables for explanations from a version's ``model.ubj``, made in a process of its own and kept on disk.

``python -m clave_inference.runtime.explain_tables MODEL TABLES``: reads XGBoost's own file (UBJSON or JSON), which is
untrusted, under limits of memory and CPU time, and writes the tables as a plain ``.npz`` without pickles. The serving
process only ever reads these arrays.
"""

import json
import math
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from clave_inference.domain.tree_explanation import NotExplainable, Tables, Tree, build_tables
from clave_inference.runtime import ubjson

MODEL_PATH: Final = "model.ubj"
CPU_S_MAX: Final = 60
ADDRESS_SPACE_BYTES_MAX: Final = 4 << 30
WALL_S_MAX: Final = 90.0
_LOGISTIC: Final = frozenset({"binary:logistic", "reg:logistic"})
_LOG: Final = frozenset({"count:poisson", "reg:gamma", "reg:tweedie"})
_IDENTITY: Final = frozenset({"reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "binary:logitraw"})


def make_in_process(model: Path, tables: Path) -> None:
    """Make the tables in a process of its own.

    Raises:
        NotExplainable: The model is of another kind, or too large.
    """
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter and module; the paths are ours
            [sys.executable, "-m", "clave_inference.runtime.explain_tables", str(model), str(tables)],
            capture_output=True,
            check=False,
            timeout=WALL_S_MAX,
            env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise NotExplainable(f"making its tables took more than {WALL_S_MAX:g} s") from None
    if done.returncode != 0:
        reason = done.stdout.decode("utf-8", "replace").strip()
        raise NotExplainable(reason[:300] or "making its tables needs more memory or time than is allowed")


def load(path: Path) -> Tables:
    """Read tables from disk."""
    with np.load(path, allow_pickle=False) as stored:
        arrays: dict[str, Any] = {field.name: stored[field.name] for field in fields(Tables)}
    arrays["base_value"], arrays["columns"] = float(arrays["base_value"]), int(arrays["columns"])
    return Tables(**arrays)


def tables_of(document: Mapping[str, Any]) -> Tables:
    """Read an XGBoost document.

    Raises:
        NotExplainable: It is no single-output tree ensemble with numeric splits and a known link.
    """
    try:
        learner = document["learner"]
        booster = learner["gradient_booster"]
        if booster["name"] != "gbtree":
            raise NotExplainable(f"it is a '{booster['name']}' booster; only 'gbtree' can be explained")
        parameters = learner["learner_model_param"]
        if int(parameters.get("num_class", 0)) > 1 or int(parameters.get("num_target", 1)) > 1:
            raise NotExplainable("it has several outputs; only single-output models can be explained")
        trees = [_tree(tree) for tree in booster["model"]["trees"]]
        margin = _base_margin(str(learner["objective"]["name"]), str(parameters["base_score"]))
        return build_tables(trees, base_margin=margin, columns=int(parameters["num_feature"]))
    except (KeyError, TypeError, ValueError, IndexError) as fault:
        raise NotExplainable(f"it is not XGBoost's own file ({type(fault).__name__}: {str(fault)[:100]})") from fault


def _tree(tree: Mapping[str, Any]) -> Tree:
    if len(tree.get("categories_nodes", ())):
        raise NotExplainable("it splits by categories; only numeric splits can be explained")
    return Tree(
        left=np.asarray(tree["left_children"], np.int32),
        right=np.asarray(tree["right_children"], np.int32),
        column=np.asarray(tree["split_indices"], np.int32),
        threshold=np.asarray(tree["split_conditions"], np.float32),
        default_left=np.asarray(tree["default_left"], np.bool_),
        cover=np.asarray(tree["sum_hessian"], np.float32),
    )


def _base_margin(objective: str, base_score: str) -> float:
    score = float(base_score.strip("[]"))
    if objective in _LOGISTIC:
        return math.log(score / (1 - score))
    if objective in _LOG:
        return math.log(score)
    if objective in _IDENTITY:
        return score
    raise NotExplainable(f"its objective '{objective}' is not known here")


def main() -> int:
    """Make the tables of the file named on the command line."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES_MAX, ADDRESS_SPACE_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    data, target = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
    try:
        document = json.loads(data) if data.startswith(b'{"') else ubjson.read(data)
        tables = tables_of(document)
    except (NotExplainable, ubjson.NotUbjson, ValueError) as reason:
        sys.stdout.write(f"{reason}\n")
        return 1
    partial = target.with_suffix(".partial.npz")
    arrays: dict[str, Any] = {field.name: np.asarray(getattr(tables, field.name)) for field in fields(Tables)}
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
