"""Counts what a large gRPC message holds before it is parsed.

protobuf makes an object of every entry, a quarter of a microsecond each: eight megabytes of empty entries would hold
the event loop for half a second. Tensors that belong into one message are few and long, so stepping over its fields
tells the two apart in microseconds. Field numbers are those of the Open Inference Protocol; the wire format's source is
protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator
from typing import Final

from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.domain.tensors import PARAMETERS_MAX, RANK_MAX, TENSORS_MAX

LARGE_BYTES: Final = 64 * 1024
TYPED_BYTES_MAX: Final = 1 << 20
"""Bytes of one tensor's typed contents; longer ones go as raw contents, which are not taken apart."""
_FIELDS_MAX: Final = 3 * TENSORS_MAX + PARAMETERS_MAX + 8  # inputs, outputs, raw contents; name, version, id
_INPUT_FIELDS_MAX: Final = PARAMETERS_MAX + RANK_MAX + 8
_SHAPE_BYTES_MAX: Final = 10 * RANK_MAX
_INPUT, _INPUT_SHAPE, _INPUT_CONTENTS = 5, 3, 5
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def require_bounded(body: bytes) -> None:
    """Refuse a message that is made of too many parts.

    Raises:
        InvalidInferRequest: It is, or its fields do not add up.
    """
    if len(body) <= LARGE_BYTES:
        return
    for number, start, end in _fields(body, 0, len(body), at_most=_FIELDS_MAX, where="message"):
        if number == _INPUT and end - start > LARGE_BYTES:
            _require_bounded_input(body, start, end)


def _require_bounded_input(body: bytes, start: int, end: int) -> None:
    for number, first, last in _fields(body, start, end, at_most=_INPUT_FIELDS_MAX, where="inputs"):
        if number == _INPUT_SHAPE and last - first > _SHAPE_BYTES_MAX:
            raise InvalidInferRequest("inputs.shape", f"has more than {RANK_MAX} dimensions.")
        if number == _INPUT_CONTENTS and last - first > TYPED_BYTES_MAX:
            raise InvalidInferRequest(
                "inputs.contents",
                f"take {last - first} bytes, at most {TYPED_BYTES_MAX} are read.",
                "Send raw_input_contents.",
                limit_bytes=TYPED_BYTES_MAX,
            )


def _fields(body: bytes, at: int, end: int, *, at_most: int, where: str) -> Iterator[tuple[int, int, int]]:
    """Give number, start and end of every field."""
    for _ in range(at_most):
        if at == end:
            return
        tag, at = _varint(body, at, end)
        kind = tag & 7
        length = 0
        if kind == _VARINT:
            _, after = _varint(body, at, end)
            length = after - at
        elif kind == _LENGTH:
            length, at = _varint(body, at, end)
        elif kind in {_FIXED32, _FIXED64}:
            length = 4 if kind == _FIXED32 else 8
        else:
            raise _not_a_message()
        if at + length > end:
            raise _not_a_message()
        yield tag >> 3, at, at + length
        at += length
    if at != end:
        raise InvalidInferRequest(where, f"has more than {at_most} fields.", "Send fewer tensors and parameters.")


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  the last byte of a varint
            return value, at
    raise _not_a_message()


def _not_a_message() -> InvalidInferRequest:
    return InvalidInferRequest("message", "is not a ModelInferRequest.")
