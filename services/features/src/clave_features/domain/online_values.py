"""How one entity's row of one view is packed for the online store.

    byte  0        format, 1
    bytes 1..8     schema hash: a blob of another schema is never misread, it counts as absent
    bytes 9..16    event_ts    } microseconds since 1970 plus 2^63, big-endian, so that bytes compare as times do;
    bytes 17..24   created_ts  } a null created_ts is all zero and thus lowest
    bytes 25..32   seq         } ingest order, breaks the last tie
    then           null bitmap, one bit per field, least significant bit first, set where null
    then           fixed part, little-endian: float64 8, float32 4, int64 8, timestamp 8, bool 1, category 2 (the
                   code), string 4 (end of its text in the tail)
    then           tail: the texts, UTF-8, one after the other

`ORDER_BYTES` is what the store compares before it writes: a row replaces another only when its (event_ts, created_ts,
seq) is greater, which is the order of the point-in-time join. The online value is therefore always the join's answer
for a label at this moment.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import numpy as np
import numpy.typing as npt

from clave_features.domain.definitions import View
from clave_features.domain.dtypes import Dtype, Value

FORMAT: Final = 1
HASH_BYTES: Final = 8
ORDER_START: Final = 1 + HASH_BYTES
ORDER_END: Final = ORDER_START + 24
ORDER_BYTES: Final = slice(ORDER_START, ORDER_END)
_HEAD: Final = struct.Struct(">B8sQQQ")
_BIAS: Final = 1 << 63
_CODES: Final = {
    Dtype.FLOAT64: "d",
    Dtype.FLOAT32: "f",
    Dtype.INT64: "q",
    Dtype.TIMESTAMP: "q",
    Dtype.BOOL: "B",
    Dtype.CATEGORY: "H",
    Dtype.STRING: "I",
}
_NUMPY: Final = {
    Dtype.FLOAT64: "<f8",
    Dtype.FLOAT32: "<f4",
    Dtype.INT64: "<i8",
    Dtype.TIMESTAMP: "<i8",
    Dtype.BOOL: "u1",
    Dtype.CATEGORY: "<u2",
    Dtype.STRING: "<u4",
}


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """What the online store knows of one entity in one view.

    Attributes:
        event_ts_us: Microseconds since 1970, UTC.
        created_ts_us: The same; None when unknown.
        values: One per field of the schema; of a category the code.
    """

    event_ts_us: int
    created_ts_us: int | None
    seq: int
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class OnlineSchema:
    """The packing of one view's rows.

    Attributes:
        fields: Name, type and levels of each field, in order.
        digest: First 8 bytes of the SHA-256 over them.
    """

    fields: tuple[tuple[str, Dtype, tuple[str, ...]], ...]
    digest: bytes = field(init=False)
    packed: "np.dtype[np.void]" = field(init=False, repr=False, compare=False)
    _fixed: struct.Struct = field(init=False, repr=False, compare=False)
    _null_bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        described = "\x1e".join("\x1f".join((name, dtype, *levels)) for name, dtype, levels in self.fields)
        codes = "".join(_CODES[dtype] for _, dtype, _ in self.fields)
        object.__setattr__(self, "digest", sha256(described.encode()).digest()[:HASH_BYTES])
        object.__setattr__(self, "_fixed", struct.Struct("<" + codes))
        object.__setattr__(self, "_null_bytes", (len(self.fields) + 7) // 8)
        object.__setattr__(self, "packed", self._packed())

    def _packed(self) -> "np.dtype[np.void]":
        head = [("format", "u1"), ("digest", "V8"), ("event", ">u8"), ("created", ">u8"), ("seq", ">u8")]
        nulls = [("nulls", "u1", ((len(self.fields) + 7) // 8,))]
        fixed = [(f"v{position}", _NUMPY[dtype]) for position, (_, dtype, _) in enumerate(self.fields)]
        return np.dtype([*head, *nulls, *fixed])

    @classmethod
    def of(cls, view: View) -> "OnlineSchema":
        """Give the packing of a view."""
        return cls(tuple((one.name, one.dtype, one.levels) for one in view.stored))

    def encode(self, row: OnlineRow) -> bytes:
        """Pack a row."""
        nulls = 0
        numbers: list[float | int] = []
        tail = bytearray()
        for position, ((_, dtype, _), value) in enumerate(zip(self.fields, row.values, strict=True)):
            if value is None:
                nulls |= 1 << position
            if dtype is Dtype.STRING:
                tail += str(value).encode() if value is not None else b""
                numbers.append(len(tail))
            elif isinstance(value, str):
                raise TypeError(f"text in a field of type {dtype}")
            else:
                numbers.append(value if value is not None else 0)
        created = 0 if row.created_ts_us is None else row.created_ts_us + _BIAS
        head = _HEAD.pack(FORMAT, self.digest, row.event_ts_us + _BIAS, created, row.seq)
        return head + nulls.to_bytes(self._null_bytes, "little") + self._fixed.pack(*numbers) + bytes(tail)

    def decode(self, blob: bytes) -> OnlineRow | None:
        """Unpack a row.

        Returns:
            The row, or None when the blob is of another format or schema.
        """
        if len(blob) < _HEAD.size:
            return None
        form, digest, event, created, seq = _HEAD.unpack_from(blob)
        if form != FORMAT or digest != self.digest:
            return None
        start = _HEAD.size + self._null_bytes
        nulls = int.from_bytes(blob[_HEAD.size : start], "little")
        numbers = self._fixed.unpack_from(blob, start)
        values = self._values(numbers, nulls, blob, start + self._fixed.size)
        return OnlineRow(event - _BIAS, created - _BIAS if created else None, seq, values)

    def decode_columns(self, blobs: Sequence[bytes | None]) -> "OnlineColumns":
        """Unpack many rows at once; an absent blob, or one of another format or schema, is not valid."""
        size = self.packed.itemsize
        absent = bytes(size)
        parts = [absent if blob is None or len(blob) < size else blob[:size] for blob in blobs]
        return OnlineColumns(self, np.frombuffer(b"".join(parts), dtype=self.packed))

    def _values(self, numbers: Sequence[Value], nulls: int, blob: bytes, tail: int) -> tuple[Value, ...]:
        if not nulls and not any(dtype in _CONVERTED for _, dtype, _ in self.fields):
            return tuple(numbers)
        values: list[Value] = []
        start = 0
        for position, ((_, dtype, _), number) in enumerate(zip(self.fields, numbers, strict=True)):
            value: Value = number
            if dtype is Dtype.STRING and isinstance(number, int):
                value = blob[tail + start : tail + number].decode()
                start = number
            elif dtype is Dtype.BOOL:
                value = bool(number)
            values.append(None if nulls >> position & 1 else value)
        return tuple(values)


@dataclass(frozen=True, slots=True)
class OnlineColumns:
    """Many packed rows, read column by column; texts are left out."""

    schema: OnlineSchema
    rows: npt.NDArray[np.void]

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Whether there is a row of this schema, shape (rows,)."""
        same = self.rows["digest"] == np.void(self.schema.digest)
        valid: npt.NDArray[np.bool_] = same & (self.rows["format"] == FORMAT)
        return valid

    @property
    def event_ts_us(self) -> npt.NDArray[np.int64]:
        """Microseconds since 1970, shape (rows,); meaningless where not valid."""
        return (self.rows["event"].astype(np.uint64) ^ np.uint64(_BIAS)).view(np.int64)

    def numbers(self, position: int) -> npt.NDArray[np.float64]:
        """One field as the float64 that a model input is rounded from, shape (rows,); NaN where null."""
        values: npt.NDArray[np.float64] = self.rows[f"v{position}"].astype(np.float64)
        bits = self.rows["nulls"][:, position // 8]
        if bits.any():
            values[(bits >> (position % 8) & 1).astype(np.bool_)] = np.nan
        return values


_CONVERTED: Final = frozenset({Dtype.STRING, Dtype.BOOL})


def entity_key(parts: Sequence[int | str]) -> bytes:
    """Write an entity's key so that no two entities share it.

    Integers and texts differ (``i1`` is not ``s1:1``) and the parts of a composite key cannot run into each other.
    """
    pieces = []
    for part in parts:
        if isinstance(part, int):
            pieces.append(b"i%d" % part)
        else:
            text = part.encode()
            pieces.append(b"s%d:%s" % (len(text), text))
    return b",".join(pieces)
