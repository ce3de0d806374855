"""The datatypes of the Open Inference Protocol and what they are in numpy.

Source: kserve/open-inference-protocol, specification/protocol, "Tensor Data Types".
"""

from typing import Final

import numpy as np

BYTES: Final = "BYTES"

NUMPY_DTYPES: Final[dict[str, np.dtype[np.generic]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(np.object_),
}
"""Every datatype served; BYTES elements are Python `bytes` in an object array."""

FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})
PRINTED_DIRECTLY: Final = frozenset(
    {"FP32", "FP64", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8"}
)
"""Datatypes that the JSON writer takes straight from an array."""
INTEGERS: Final = frozenset(name for name in NUMPY_DTYPES if name.startswith(("INT", "UINT")))

_BY_KIND_AND_WIDTH: Final = {
    (dtype.kind, dtype.itemsize): name for name, dtype in NUMPY_DTYPES.items() if name != BYTES
}


def datatype_of(dtype: np.dtype[np.generic]) -> str:
    """Name the protocol's datatype of a numpy dtype; strings and objects are BYTES.

    Raises:
        ValueError: The protocol has no such datatype (for example complex numbers).
    """
    if dtype.kind in "OSU":
        return BYTES
    name = _BY_KIND_AND_WIDTH.get((dtype.kind, dtype.itemsize))
    if name is None:
        raise ValueError(f"the Open Inference Protocol has no datatype for numpy's {dtype}")
    return name
