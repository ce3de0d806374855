"""Turns rows of features, as people hold them, into the one tensor that a model takes."""

import math
from collections.abc import Mapping
from typing import Any

from clave_contracts.inference import InferTensor

_MATRIX = 2


def tensor_of_rows(metadata: Mapping[str, Any], rows: Any) -> InferTensor:
    """Build a model's input.

    Args:
        metadata: The model's description by the Open Inference Protocol.
        rows: A DataFrame, an array, or a list of lists: a row for each prediction, columns in the model's order.
            NaN and None are missing values.

    Raises:
        ValueError: The model takes several inputs, or the rows are no table of its width.
    """
    inputs = metadata["inputs"]
    if len(inputs) != 1:
        names = ", ".join(tensor["name"] for tensor in inputs)
        raise ValueError(f"'{metadata['name']}' takes the inputs {names}: give them as inputs=[InferTensor(...), ...]")
    (taken,) = inputs
    table = rows.to_numpy() if hasattr(rows, "to_numpy") else rows
    listed = table.tolist() if hasattr(table, "tolist") else list(table)
    if not listed or not all(isinstance(row, list | tuple) for row in listed):
        raise ValueError("rows is a table: a list of values for each prediction, such as [[0.1, 0.2], [0.3, 0.4]]")
    width = len(listed[0])
    expected = taken["shape"][1] if len(taken["shape"]) == _MATRIX else -1
    if any(len(row) != width for row in listed) or expected not in {-1, width}:
        widths = sorted({len(row) for row in listed})
        raise ValueError(f"'{metadata['name']}' takes {expected} columns; the rows have {widths}")
    data = [None if isinstance(value, float) and math.isnan(value) else value for row in listed for value in row]
    return InferTensor(name=taken["name"], datatype=taken["datatype"], shape=[len(listed), width], data=data)
