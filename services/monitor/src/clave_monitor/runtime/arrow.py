"""Arrow arrays from and to numpy, by their buffers.

`pyarrow.array`, `scalar` and `to_numpy` import pandas wherever it is installed: 50 MB that a monitor has no other use
for. pyarrow itself is imported when the first file is read or written.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_columns(path: str) -> dict[str, Any]:
    """Read a Parquet file's columns as Arrow arrays.

    Raises:
        ValueError: The file is no Parquet (pyarrow's ArrowInvalid is one).
        OSError: The file cannot be read.
    """
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - see the module's text

    table = ParquetFile(path).read(use_threads=False)
    return {name: table.column(name).combine_chunks() for name in table.column_names}


def as_floats(array: Any) -> NDArray[np.float64]:
    """Return a numeric or boolean column as floats, null as NaN, shape (rows,).

    Raises:
        ValueError: The column holds no numbers.
    """
    import pyarrow as pa  # noqa: PLC0415 - see the module's text

    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    found = array.cast(pa.float64())
    rows = slice(found.offset, found.offset + len(found))
    validity, data = found.buffers()
    values = np.frombuffer(data, dtype=np.float64)[rows].copy() if len(found) else np.zeros(0)
    if found.null_count:
        known = np.unpackbits(np.frombuffer(validity, dtype=np.uint8), bitorder="little")[rows]
        values[known == 0] = np.nan
    return values


def as_objects(array: Any) -> list[object]:
    """Return a column's values as Python objects, null as None."""
    return [value.as_py() for value in array]


def parquet(columns: dict[str, Any]) -> bytes:
    """Write Arrow arrays as one Parquet file."""
    import pyarrow as pa  # noqa: PLC0415 - see the module's text
    from pyarrow.parquet import write_table  # noqa: PLC0415 - see the module's text

    table = pa.Table.from_arrays(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def numbers(values: NDArray[Any], kind: Any, *, known: NDArray[np.bool_] | None = None) -> Any:
    """Make a column of numbers.

    Args:
        values: Shape (rows,), of the kind's own width.
        kind: Arrow type, for example ``pa.float32()``.
        known: Which values are there, shape (rows,); all where absent.
    """
    import pyarrow as pa  # noqa: PLC0415 - see the module's text

    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind, len(values), [_validity(known), data])


def texts(values: Sequence[str | None]) -> Any:
    """Make a column of texts, None as null."""
    import pyarrow as pa  # noqa: PLC0415 - see the module's text

    encoded = [b"" if value is None else value.encode() for value in values]
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(part) for part in encoded], out=offsets[1:])
    known = np.array([value is not None for value in values], dtype=np.bool_)
    buffers = [_validity(known), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.utf8(), len(values), buffers)


def _validity(known: NDArray[np.bool_] | None) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - see the module's text

    if known is None or known.all():
        return None
    return pa.py_buffer(np.packbits(known, bitorder="little"))
