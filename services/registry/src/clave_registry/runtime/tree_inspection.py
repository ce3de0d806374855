"""Looks into an XGBoost model (JSON or UBJSON); runs only inside the sandbox.

Checks what a loader would trust: that every tree's arrays have one length, that children and split features exist, and
that no tree is a cycle. UBJSON is read by a small reader of its own, because a library would build whatever sizes the
file claims.

Source: xgboost.readthedocs.io/en/stable/tutorials/saving_model.html (schema); ubjson.org/type-reference.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np  # here, before the process is confined: it could not load its libraries afterwards

TREES_MAX = 100_000
NODES_MAX = 50_000_000
DEPTH_MAX = 64
_LEAF = -1
_NUMBERS = {
    b"i": ">i1",
    b"U": ">u1",
    b"I": ">i2",
    b"l": ">i4",
    b"L": ">i8",
    b"d": ">f4",
    b"D": ">f8",
}
_FORMATS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_WHOLE = frozenset({b"i", b"U", b"I", b"l", b"L"})
_CONSTANTS = {b"Z": None, b"T": True, b"F": False}


class Malformed(Exception):
    """The bytes are not what they say."""


class _Reader:
    """Reads UBJSON (draft 12); a container's claimed size is believed only as far as there are bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def document(self) -> Any:
        value = self._value(self._take(1), 0)
        if self._at != len(self._data):
            raise Malformed("bytes follow the end of the document")
        return value

    def _take(self, count: int) -> bytes:
        if count < 0 or self._at + count > len(self._data):
            raise Malformed("it is cut or claims a size it has not")
        self._at += count
        return self._data[self._at - count : self._at]

    def _peek(self) -> bytes:
        return self._data[self._at : self._at + 1]

    def _value(self, marker: bytes, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise Malformed(f"it is nested deeper than {DEPTH_MAX}")
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker in _FORMATS:
            form = _FORMATS[marker]
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        match marker:
            case b"S":
                return self._text()
            case b"C":
                return self._take(1).decode("latin-1")
            case b"[":
                return self._list(depth)
            case b"{":
                return self._mapping(depth)
        raise Malformed(f"it has the unknown marker {marker!r}")

    def _length(self) -> int:
        marker = self._take(1)
        if marker not in _WHOLE:
            raise Malformed("a length is no whole number")
        length = int(self._value(marker, 0))
        if not 0 <= length <= len(self._data):
            raise Malformed("it claims a size it has not")
        return length

    def _text(self) -> str:
        return self._take(self._length()).decode()

    def _head(self) -> tuple[bytes | None, int | None]:
        kind, count = None, None
        if self._peek() == b"$":
            self._take(1)
            kind = self._take(1)
        if self._peek() == b"#":
            self._take(1)
            count = self._length()
        if kind is not None and count is None:
            raise Malformed("a typed container has no count")
        return kind, count

    def _list(self, depth: int) -> Any:
        kind, count = self._head()
        if kind in _NUMBERS and count is not None:
            form = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self._take(count * form.itemsize), dtype=form)
        items: list[Any] = []
        while count is None or len(items) < count:
            marker = kind or self._take(1)
            if count is None and marker == b"]":
                break
            items.append(self._value(marker, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, Any]:
        kind, count = self._head()
        items: dict[str, Any] = {}
        while count is None or len(items) < count:
            if count is None and self._peek() == b"}":
                self._take(1)
                break
            key = self._text()
            items[key] = self._value(kind or self._take(1), depth + 1)
        return items


def inspect(data: bytes) -> dict[str, Any]:
    """Describe an XGBoost model and list what speaks against keeping it.

    Args:
        data: JSON (begins with ``{"``) or UBJSON.

    Returns:
        ``faults``; ``inputs`` (one tensor, shape (-1, features)), ``outputs``, ``columns`` (names of the
        features, where the model has them), ``operators`` (the booster and its objective),
        ``opsets`` (the format's version).
    """
    try:
        model = json.loads(data) if data[:2].replace(b"\n", b'"').startswith(b'{"') else _Reader(data).document()
        learner = model["learner"]
        features = int(learner["learner_model_param"]["num_feature"])
        classes = int(learner["learner_model_param"].get("num_class", 0))
        booster, objective = str(learner["gradient_booster"]["name"]), str(learner["objective"]["name"])
        faults = list(_faults(learner["gradient_booster"], features))[:20]
        version = [int(part) for part in model.get("version", [0])]
    except Malformed as error:
        return {"faults": [f"it is no XGBoost model: {error}"]}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, struct.error) as error:
        return {"faults": [f"it is no XGBoost model ({type(error).__name__}: {str(error)[:80]})"]}
    names = [str(name)[:256] for name in learner.get("feature_names", [])]
    if names and len(names) != features:
        faults.append(f"it names {len(names)} of its {features} features")
    return {
        "faults": faults,
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, features]}],
        "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, classes] if classes > 1 else [-1]}],
        "opsets": {"xgboost": version[0]},
        "operators": [booster, objective],
        "columns": names,
    }


def _faults(booster: dict[str, Any], features: int) -> Iterator[str]:
    inner = booster.get("gbtree", booster)  # dart wraps a tree booster
    trees = inner["model"].get("trees", []) if "model" in inner else []
    if len(trees) > TREES_MAX:
        yield f"it has more than {TREES_MAX} trees"
        return
    if sum(len(tree["left_children"]) for tree in trees) > NODES_MAX:
        yield f"it has more than {NODES_MAX} nodes"
        return
    for number, tree in enumerate(trees):
        fault = _tree_fault(tree, features)
        if fault is not None:
            yield f"tree {number} {fault}"


def _tree_fault(tree: dict[str, Any], features: int) -> str | None:
    left, right, split = (
        np.asarray(tree[n], dtype=np.int64) for n in ("left_children", "right_children", "split_indices")
    )
    nodes = len(left)
    if nodes == 0 or not len(right) == len(split) == len(tree["split_conditions"]) == nodes:
        return "has arrays of different lengths"
    inner = left != _LEAF
    if not np.array_equal(inner, right != _LEAF):
        return "has a node with one child"
    children = np.concatenate([left[inner], right[inner]])
    if children.size and (children.min() < 1 or children.max() >= nodes or len(np.unique(children)) != len(children)):
        return "has a child that does not exist or has two parents"
    if inner.any() and (split[inner].min() < 0 or split[inner].max() >= features):
        return f"splits by a feature that is not one of {features}"
    return None
