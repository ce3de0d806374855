"""Reads Universal Binary JSON, as far as XGBoost writes it (model.ubj). Bounds on depth and size at every step.

Source: ubjson.org, draft 12; XGBoost's src/common/json.cc, which writes big-endian typed arrays ``[$<type>#<count>``.
"""

import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_DEPTH_MAX: Final = 32
_NUMBERS: Final[dict[bytes, np.dtype[Any]]] = {
    b"i": np.dtype(">i1"),
    b"U": np.dtype(">u1"),
    b"I": np.dtype(">i2"),
    b"l": np.dtype(">i4"),
    b"L": np.dtype(">i8"),
    b"d": np.dtype(">f4"),
    b"D": np.dtype(">f8"),
}


class NotUbjson(Exception):
    """The bytes are not UBJSON, or not what XGBoost writes."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if count < 0 or len(part) != count:
            raise NotUbjson("it is cut short")
        self._at += count
        return part

    def peek(self) -> bytes:
        return self._data[self._at : self._at + 1]

    def marker(self) -> bytes:
        marker = self.take(1)
        while marker == b"N":  # no-op
            marker = self.take(1)
        return marker

    def number(self, marker: bytes) -> Any:
        dtype = _NUMBERS[marker]
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def count(self) -> int:
        marker = self.marker()
        if marker not in _NUMBERS:
            raise NotUbjson("a count is not a number")
        value = self.number(marker)
        if not isinstance(value, int) or value < 0:
            raise NotUbjson("a count is not a whole number")
        return value

    def text(self) -> str:
        try:
            return self.take(self.count()).decode()
        except UnicodeDecodeError:
            raise NotUbjson("a text is not UTF-8") from None

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > _DEPTH_MAX:
            raise NotUbjson("it is nested too deeply")
        if marker in _NUMBERS:
            return self.number(marker)
        if marker == b"S":
            return self.text()
        if marker == b"C":
            return self.take(1).decode("latin-1")
        if marker in {b"T", b"F", b"Z"}:
            return {b"T": True, b"F": False, b"Z": None}[marker]
        if marker == b"[":
            return self.array(depth)
        if marker == b"{":
            return self.document(depth)
        raise NotUbjson(f"it has an unknown marker {marker!r}")

    def array(self, depth: int) -> Any:
        if self.peek() == b"$":
            return self._typed_array()
        values: list[Any] = []
        if self.peek() == b"#":
            self.take(1)
            return [self.value(self.marker(), depth + 1) for _ in range(self.count())]
        while (marker := self.marker()) != b"]":
            values.append(self.value(marker, depth + 1))
        return values

    def _typed_array(self) -> NDArray[Any]:
        self.take(1)
        dtype = _NUMBERS.get(self.take(1))
        if dtype is None or self.take(1) != b"#":
            raise NotUbjson("a typed array holds no numbers")
        return np.frombuffer(self.take(self.count() * dtype.itemsize), dtype)

    def document(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.peek() == b"#":
            self.take(1)
            for _ in range(self.count()):
                name = self.text()
                found[name] = self.value(self.marker(), depth + 1)
            return found
        while self.peek() != b"}":
            name = self.text()
            found[name] = self.value(self.marker(), depth + 1)
        self.take(1)
        return found


def read(data: bytes) -> Any:
    """Read a document.

    Raises:
        NotUbjson: The bytes are something else.
    """
    reader = _Reader(data)
    try:
        return reader.value(reader.marker(), 0)
    except (struct.error, ValueError) as fault:
        raise NotUbjson(str(fault)) from fault
