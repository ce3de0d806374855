"""The binary part of a REST body, and the header that says where it begins."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.domain.tensors import array_from_bytes

LENGTH_HEADER = "Inference-Header-Content-Length"
_LENGTH_DIGITS_MAX = 12


class BinaryTail:
    """The bytes behind the JSON part, taken tensor by tensor."""

    def __init__(self, tail: memoryview | None) -> None:
        self._tail = tail
        self._at = 0

    def take(self, size: Any, datatype: str, shape: Sequence[int], where: str) -> NDArray[Any]:
        """Take the next tensor.

        Raises:
            InvalidInferRequest: Its size is not a number, runs past the body, or does not fit the shape.
        """
        if self._tail is None:
            raise InvalidInferRequest(
                f"{where}.parameters.binary_data_size",
                f"needs the header {LENGTH_HEADER}.",
                "Send the length of the JSON part in it.",
            )
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InvalidInferRequest(f"{where}.parameters.binary_data_size", "is not a number of bytes.")
        if size > len(self._tail) - self._at:
            raise InvalidInferRequest(
                f"{where}.parameters.binary_data_size",
                f"is {size}, but only {len(self._tail) - self._at} bytes are left in the body.",
                "The body is cut short, or the sizes are wrong.",
            )
        raw = self._tail[self._at : self._at + size]
        self._at += size
        return array_from_bytes(raw, datatype, shape, where)

    def require_end(self) -> None:
        """Check that every byte was taken.

        Raises:
            InvalidInferRequest: Bytes are left over.
        """
        if self._tail is not None and self._at != len(self._tail):
            raise InvalidInferRequest(
                "body",
                f"has {len(self._tail) - self._at} bytes that belong to no tensor.",
                "The binary_data_size values must add up to what follows the JSON part.",
            )


def parse_header_length(value: bytes, body_bytes: int) -> int:
    """Read ``Inference-Header-Content-Length``.

    Raises:
        InvalidInferRequest: It is not a number, or larger than the body.
    """
    if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
        raise InvalidInferRequest(LENGTH_HEADER, "is not a number of bytes.", "Send the length of the JSON part.")
    length = int(value)
    if length > body_bytes:
        raise InvalidInferRequest(
            LENGTH_HEADER, f"is {length}, but the body has only {body_bytes} bytes.", "Send the whole body."
        )
    return length
