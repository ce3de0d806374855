"""How predictions travel on the stream `clave.predictions`: several `PredictionRecord` in the body of one entry.

A body that begins with ``[`` is a JSON array of records. The service that answers writes the other form, which costs
it next to nothing: numbers go as they lie in memory, and whoever reads the stream prints them.

    body  = "CPB1" part*
    part  = tag (1 byte), length of the payload (u32, little-endian), payload
    "R"   = one record, JSON
    "K"   = what the rows of every following "T" have in common, JSON: the members of a record that repeat, and the
            numpy datatypes of rows, scores and labels ("" where there are none), see `kind_part`
    "T"   = answered rows, one request each: length of the JSON (u32), JSON, rows, scores, labels (little-endian,
            row-major); the JSON holds one entry per request, see `table_part`

Needs numpy and orjson: the extra ``batches``.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

_MAGIC: Final = b"CPB1"
_PART: Final = struct.Struct("<cI")
_LENGTH: Final = struct.Struct("<I")
_RECORD, _KIND, _TABLE = b"R", b"K", b"T"
_DTYPES: Final = ("dtype", "score_dtype", "label_dtype")
_WRITE: Final = orjson.OPT_SERIALIZE_NUMPY


class MalformedBatch(ValueError):
    """The body of an entry is no batch of predictions."""


def batch(parts: Iterable[bytes]) -> bytes:
    """Join parts into the body of an entry."""
    return _MAGIC + b"".join(parts)


def record_part(record: bytes) -> bytes:
    """Frame one record, given as JSON."""
    return _PART.pack(_RECORD, len(record)) + record


def kind_part(shared: Mapping[str, Any], *, dtype: str, score_dtype: str, label_dtype: str) -> bytes:
    """Frame what the rows of some tables have in common.

    Args:
        shared: The members of a record that repeat: endpoint, model, model_version, arm, tenant, protocol, columns.
        dtype: numpy's name of the rows' datatype, with the byte order.
        score_dtype: The same of the scores; empty where there are none.
        label_dtype: The same of the predicted classes; empty where there are none.
    """
    text = orjson.dumps({**shared, "dtype": dtype, "score_dtype": score_dtype, "label_dtype": label_dtype})
    return _PART.pack(_KIND, len(text)) + text


def table_part(
    *,
    ids: Sequence[str],
    principals: Sequence[str],
    traces: Sequence[str | None] | None,
    began: Sequence[float],
    ended: float,
    offset: float,
    rows: bytes,
    scores: bytes,
    labels: bytes,
) -> bytes:
    """Frame answered rows, one request each; one entry per request in every list.

    Args:
        ids: Prediction ids.
        principals: Who asked.
        traces: Trace ids; None where no request named one.
        began: When the requests arrived, seconds of any clock.
        ended: When they were answered, seconds of the same clock.
        offset: Seconds from that clock to the one that began in 1970.
        rows: The rows' bytes, in the datatype of the part ``K`` before.
        scores: One number a row, or nothing.
        labels: One number a row, or nothing.
    """
    text = orjson.dumps(
        {
            "ids": ids,
            "principals": principals,
            "traces": traces,
            "began": began,
            "ended": ended,
            "offset": offset,
        }
    )
    length = _LENGTH.size + len(text) + len(rows) + len(scores) + len(labels)
    return b"".join((_PART.pack(_TABLE, length), _LENGTH.pack(len(text)), text, rows, scores, labels))


def documents(body: bytes) -> list[dict[str, Any]]:
    """Read the body of an entry: the documents of its `PredictionRecord`, not yet validated.

    Numbers are printed as their shortest decimal form in their own datatype, so a float32 0.1 reads as 0.1.

    Raises:
        MalformedBatch: It is no batch.
    """
    try:
        found = list(_documents(memoryview(body)[len(_MAGIC) :])) if body.startswith(_MAGIC) else orjson.loads(body)
    except (ValueError, KeyError, TypeError, struct.error) as fault:
        raise MalformedBatch(str(fault)[:200]) from fault
    if not isinstance(found, list):
        raise MalformedBatch("it is no array")
    return found


def _documents(data: memoryview) -> Iterator[dict[str, Any]]:
    kind: dict[str, Any] = {}
    at = 0
    while at < len(data):
        tag, length = _PART.unpack_from(data, at)
        start = at + _PART.size
        at = start + length
        if at > len(data):
            raise ValueError("its last part is cut short")
        payload = data[start:at]
        if tag == _RECORD:
            yield orjson.loads(payload)
        elif tag == _KIND:
            kind = orjson.loads(payload)
        elif tag == _TABLE:
            yield from _table(kind, payload)
        else:
            raise ValueError(f"no part has the tag {tag!r}")


def _table(kind: Mapping[str, Any], payload: memoryview) -> Iterator[dict[str, Any]]:
    shared = {name: value for name, value in kind.items() if name not in _DTYPES}
    (length,) = _LENGTH.unpack_from(payload, 0)
    start = _LENGTH.size + length
    heads = orjson.loads(payload[_LENGTH.size : start])
    count = len(heads["ids"])
    tail = payload[start:]
    narrow = [np.dtype(kind[name]).itemsize * count if kind[name] else 0 for name in _DTYPES[1:]]
    edge = len(tail) - sum(narrow)
    rows = _numbers(tail[:edge], kind["dtype"]).reshape(count, -1)
    scores = _per_row(tail[edge : edge + narrow[0]], kind["score_dtype"], count)
    labels = _per_row(tail[edge + narrow[0] :], kind["label_dtype"], count)
    traces = heads["traces"] or [None] * count
    ended, offset = heads["ended"], heads["offset"]
    columns = zip(heads["ids"], heads["principals"], traces, heads["began"], _printed(rows), strict=True)
    for place, (name, principal, trace, began, values) in enumerate(columns):
        yield {
            **shared,
            "id": name,
            "principal": principal,
            "trace_id": trace,
            "at": datetime.fromtimestamp(began + offset, UTC),
            "values": [values],
            "score": [] if scores is None else [scores[place]],
            "label": None if labels is None else [labels[place]],
            "latency_ms": round((ended - began) * 1e3, 3),
        }


def _numbers(data: memoryview, dtype: str) -> NDArray[Any]:
    return np.frombuffer(data, np.dtype(dtype))


def _per_row(data: memoryview, dtype: str, count: int) -> list[Any] | None:
    return _printed(_numbers(data, dtype).reshape(count)) if dtype else None


def _printed(array: NDArray[Any]) -> list[Any]:
    """Print and read back: numpy's own conversion to Python floats would turn a float32 0.1 into 0.10000000149."""
    numbers: list[Any] = orjson.loads(orjson.dumps(array, option=_WRITE))
    return numbers
