"""Tensors as requests carry them, and the rules every tensor obeys whatever the wire.

A tensor here has been decoded: its array has the declared shape and datatype. What a *model* wants is the business of
`signature`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clave_inference.domain.datatypes import BYTES, FLOATS, INTEGERS, NUMPY_DTYPES
from clave_inference.domain.errors import InvalidInferRequest

RANK_MAX: Final = 8
ELEMENTS_MAX: Final = 1 << 22
"""Elements of one tensor; 4 Mi float32 are 16 MiB, above any accepted body."""
TENSORS_MAX: Final = 256
"""Inputs, and requested outputs, of one request."""
PARAMETERS_MAX: Final = 1_000
"""Parameters of one request, tensor or output."""
PARAMETERS_BYTES_MAX: Final = 1 << 20
"""Bytes that parameters may take, entity keys included."""
PARAMETER_VALUES_MAX: Final = 1 << 16
"""Keys and values in them: 4,096 rows of 16 join keys."""
OUTPUTS_BYTES_MAX: Final = 1 << 16
"""Bytes that the requested outputs may take."""
VALUES_MAX: Final = 1 << 18
"""Values of one request outside of binary tensors: 4,096 rows of 64 columns."""
BYTES_ELEMENTS_MAX: Final = 1 << 17
"""Elements of one BYTES tensor, which are taken apart one by one."""
ID_CHARACTERS_MAX: Final = 1_000
"""Of a request's own id, which comes back and is logged."""


@dataclass(slots=True)
class Tensor:
    """A named array of the protocol.

    Attributes:
        datatype: Name in the protocol, for example ``FP32``.
        data: Row-major values of the tensor's shape; read-only views of the request are welcome.
    """

    name: str
    datatype: str
    data: NDArray[Any]


@dataclass(slots=True)
class RequestedOutput:
    """An output that the caller asks for; `binary` is None where the caller leaves it to the request."""

    name: str
    binary: bool | None = None


@dataclass(slots=True)
class InferenceRequest:
    """One decoded request.

    Attributes:
        id: The caller's own name for the request; comes back in the answer.
        outputs: Outputs wanted, in this order; None means all.
        binary_outputs: Whether outputs go out as binary tensors unless they say otherwise (REST only).
        raw_outputs: Whether gRPC outputs go out as raw bytes.
    """

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: list[RequestedOutput] | None = None
    binary_outputs: bool = False
    raw_outputs: bool = False


@dataclass(slots=True)
class InferenceAnswer:
    """One answer before it is encoded."""

    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


def require_datatype(datatype: str, field_name: str) -> np.dtype[np.generic]:
    """Give the numpy dtype of a datatype's name.

    Raises:
        InvalidInferRequest: The name is not one of the protocol's datatypes.
    """
    dtype = NUMPY_DTYPES.get(datatype)
    if dtype is None:
        raise InvalidInferRequest(
            f"{field_name}.datatype",
            f"'{datatype[:40]}' is not a datatype served here.",
            f"Use one of {', '.join(NUMPY_DTYPES)}.",
        )
    return dtype


def count_elements(shape: Sequence[int], field_name: str) -> int:
    """Multiply a shape out, with bounds at every step so that no product can overflow.

    Returns:
        Number of elements, 0 to `ELEMENTS_MAX`.

    Raises:
        InvalidInferRequest: Too many dimensions, a negative one, or too many elements.
    """
    if len(shape) > RANK_MAX:
        raise InvalidInferRequest(
            f"{field_name}.shape", f"has {len(shape)} dimensions, at most {RANK_MAX} are accepted."
        )
    count = 1
    for size in shape:
        if size < 0:
            raise InvalidInferRequest(
                f"{field_name}.shape", "has a negative size.", "Send the real size of every dimension."
            )
        count *= size
        if count > ELEMENTS_MAX:
            raise InvalidInferRequest(
                f"{field_name}.shape",
                f"holds more than {ELEMENTS_MAX} elements.",
                "Split the rows over several requests.",
                limit=ELEMENTS_MAX,
            )
    return count


def array_from_values(values: list[Any], datatype: str, shape: Sequence[int], field_name: str) -> NDArray[Any]:
    """Build an array from a flat or nested list of JSON or protobuf values.

    Args:
        values: Row-major; nested lists must be nested as `shape` says. None is a missing value (NaN), floats only.
        datatype: Name in the protocol.
        shape: Declared sizes.
        field_name: Where the tensor stands in the request, for messages.

    Raises:
        InvalidInferRequest: Count, nesting, type or range of the values do not fit.
    """
    dtype = require_datatype(datatype, field_name)
    expected = count_elements(shape, field_name)
    if values and isinstance(values[0], list):
        values = _flatten(values, shape, field_name)
    require_count(len(values), expected, shape, field_name)
    _check_types(values, datatype, field_name)
    if datatype == BYTES:
        array = np.empty(len(values), dtype=np.object_)
        array[:] = [value.encode() if isinstance(value, str) else value for value in values]
        return array.reshape(shape)
    try:
        with np.errstate(over="raise"):
            return np.array(values, dtype).reshape(shape)
    except (OverflowError, FloatingPointError):
        raise InvalidInferRequest(f"{field_name}.data", f"holds a number outside the range of {datatype}.") from None


def require_count(found: int, expected: int, shape: Sequence[int], field_name: str) -> None:
    """Check that a tensor holds as many values as its shape says.

    Raises:
        InvalidInferRequest: It does not.
    """
    if found != expected:
        raise InvalidInferRequest(
            f"{field_name}.data",
            f"has {found} elements where shape {list(shape)} needs {expected}.",
            "Send as many values as the product of the shape.",
        )


def require_tensors(count: int, field_name: str) -> None:
    """Check how many inputs or outputs a request names.

    Raises:
        InvalidInferRequest: More than `TENSORS_MAX`.
    """
    if count > TENSORS_MAX:
        raise InvalidInferRequest(
            field_name, f"are {count}, at most {TENSORS_MAX} go into one request.", limit=TENSORS_MAX
        )


def _flatten(values: list[Any], shape: Sequence[int], field_name: str) -> list[Any]:
    level = [values]
    for size in shape:
        for part in level:
            if not isinstance(part, list) or len(part) != size:
                raise InvalidInferRequest(
                    f"{field_name}.data",
                    f"is not nested as shape {list(shape)} says.",
                    "Send a flat row-major list, or lists nested exactly like the shape.",
                )
        level = [child for part in level for child in part]
    return level


def _check_types(values: list[Any], datatype: str, field_name: str) -> None:
    allowed: tuple[type, ...]
    if datatype in FLOATS:
        allowed = (float, int, type(None))
    elif datatype in INTEGERS:
        allowed = (int,)
    elif datatype == BYTES:
        allowed = (str, bytes)
    else:
        allowed = (bool,)
    found = set(map(type, values)).difference(allowed)
    if found:
        names = ", ".join(sorted("null" if kind is type(None) else kind.__name__ for kind in found))
        remedy = (
            "null means a missing value in floating point tensors only."
            if type(None) in found
            else f"Send {' or '.join(kind.__name__ for kind in allowed if kind is not type(None))} values."
        )
        raise InvalidInferRequest(f"{field_name}.data", f"holds {names} where {datatype} is declared.", remedy)


def array_from_bytes(raw: bytes | memoryview, datatype: str, shape: Sequence[int], field_name: str) -> NDArray[Any]:
    """View little-endian row-major bytes as an array, without a copy where the datatype allows it.

    Args:
        raw: The tensor's bytes; BYTES elements each carry a 4-byte little-endian length.
        datatype: Name in the protocol.
        shape: Declared sizes.
        field_name: Where the tensor stands in the request, for messages.

    Raises:
        InvalidInferRequest: The bytes do not make up the declared shape.
    """
    dtype = require_datatype(datatype, field_name)
    expected = count_elements(shape, field_name)
    if datatype == BYTES:
        return _bytes_elements(raw, expected, field_name).reshape(shape)
    if len(raw) != expected * dtype.itemsize:
        raise InvalidInferRequest(
            f"{field_name}",
            f"has {len(raw)} bytes where {datatype} of shape {list(shape)} needs {expected * dtype.itemsize}.",
            "Send every element, little-endian and row-major, without padding.",
        )
    array: NDArray[Any] = np.frombuffer(raw, np.uint8) != 0 if datatype == "BOOL" else np.frombuffer(raw, dtype)
    return array.reshape(shape)


def _bytes_elements(raw: bytes | memoryview, expected: int, field_name: str) -> NDArray[np.object_]:
    if expected > BYTES_ELEMENTS_MAX:
        raise InvalidInferRequest(
            field_name,
            f"has {expected} BYTES elements, at most {BYTES_ELEMENTS_MAX} go into one tensor.",
            "Split the rows over several requests.",
            limit=BYTES_ELEMENTS_MAX,
        )
    if len(raw) < 4 * expected:
        raise InvalidInferRequest(field_name, f"has {len(raw)} bytes, too few for {expected} BYTES elements.")
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if at + 4 > len(raw) or end > len(raw):
            raise InvalidInferRequest(
                field_name, "a BYTES element runs past the end of the tensor.", "Check the 4-byte lengths."
            )
        elements.append(bytes(raw[at + 4 : end]))
        at = end
        if len(elements) > expected:
            break
    if len(elements) != expected:
        more = "more than" if len(elements) > expected else "only"
        found = min(len(elements), expected)
        raise InvalidInferRequest(field_name, f"has {more} {found} BYTES elements, the shape needs {expected}.")
    array = np.empty(expected, dtype=np.object_)
    array[:] = elements
    return array


def bytes_from_array(tensor: Tensor) -> bytes:
    """Write a tensor as the binary extension and gRPC's raw contents want it."""
    if tensor.datatype != BYTES:
        return np.ascontiguousarray(tensor.data, NUMPY_DTYPES[tensor.datatype]).tobytes()
    parts: list[bytes] = []
    for value in tensor.data.ravel():
        element = value.encode() if isinstance(value, str) else bytes(value)
        parts += (len(element).to_bytes(4, "little"), element)
    return b"".join(parts)
