"""What the prediction log says about a request: `PredictionRecord` documents, encoded as cheaply as may be.

Ordinary requests (one row) that ran together are kept as they are, a `RowsRun`, until the log is flushed. Then runs of
one kind become one array, the JSON writer prints it in one pass, and what repeats (endpoint, version, arm, columns) is
encoded once. Every other request is encoded by itself, at once.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from clave_inference.runtime.loaded_version import LoadedVersion
from clave_inference.services.call import Call

_HEADS_MAX: Final = 1_000
_SECONDS_MAX: Final = 16
_WRITE: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class RunKind(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What runs have in common whose rows may stand in one array.

    Attributes:
        head: The members of a record that repeat, as JSON without the closing brace.
        dtype: Of the rows.
        score_dtype: Of the scores; empty where there are none.
        label_dtype: Of the predicted classes; empty where there are none.
    """

    endpoint: str
    version: str
    arm: str
    protocol: str
    head: bytes
    dtype: str
    score_dtype: str
    label_dtype: str


class RowsRun(msgspec.Struct, array_like=True, gc=False):
    """Ordinary requests that ran together, before they are encoded; one entry per request in every list.

    Attributes:
        ended: Monotonic seconds.
        offset: From monotonic seconds to those since 1970.
        rows: The rows' bytes.
    """

    kind: RunKind
    ids: list[str]
    principals: list[str]
    traces: list[str | None]
    began: list[float]
    ended: float
    offset: float
    rows: bytes
    scores: bytes
    labels: bytes


Piece = RowsRun | bytes
"""What waits for a flush: a run, or one encoded record."""

_encode_run = msgspec.msgpack.Encoder().encode
_decode_run = msgspec.msgpack.Decoder(RowsRun).decode


def journal_form(piece: Piece) -> bytes:
    """Give the bytes of a piece for the journal."""
    return piece if isinstance(piece, bytes) else _encode_run(piece)


def from_journal(form: bytes) -> Piece:
    """Read a piece back; JSON records begin with a brace, runs never do."""
    return form if form.startswith(b"{") else _decode_run(form)


class RunKinds:
    """Makes runs and records; remembers what repeats in them."""

    def __init__(self) -> None:
        self._heads: dict[tuple[Any, ...], bytes] = {}
        self._kinds: dict[tuple[Any, ...], RunKind] = {}

    def run(self, calls: Sequence[Call], rows: NDArray[Any], outputs: Sequence[NDArray[Any]], ended: float) -> RowsRun:
        """Describe calls of one row on one target; arguments as of `PredictionLog.add_run`."""
        loaded = calls[0].runnable
        names = loaded.output_names
        scores, labels = loaded.scores(outputs, names), loaded.labels(outputs, names)
        return RowsRun(
            self._kind(calls[0], rows, scores, labels),
            [call.prediction_id for call in calls],
            [call.admission.caller.subject_id for call in calls],
            [None if call.trace is None else call.trace.trace_id for call in calls],
            [call.began for call in calls],
            ended,
            time.time() - ended,
            rows.tobytes(),
            b"" if scores is None else scores.tobytes(),
            b"" if labels is None else labels.tobytes(),
        )

    def encode(self, call: Call) -> bytes:
        """Encode any one request."""
        key = _repeating(call)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            head = self._heads[key] = _head(call) + b","
        offset = time.time() - time.monotonic()
        return head + orjson.dumps(_document(call, offset), option=_WRITE, default=_plain)[1:]

    def _kind(
        self, call: Call, rows: NDArray[Any], scores: NDArray[Any] | None, labels: NDArray[Any] | None
    ) -> RunKind:
        target = call.target
        key = _repeating(call)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= _HEADS_MAX:
                self._kinds.clear()
            kind = self._kinds[key] = RunKind(
                target.endpoint.name,
                target.version_text,
                target.arm,
                call.protocol,
                _head(call),
                rows.dtype.str,
                "" if scores is None else scores.dtype.str,
                "" if labels is None else labels.dtype.str,
            )
        return kind


def encode_pieces(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Encode what waited, in its order, one record at a time."""
    for kind, group in itertools.groupby(pieces, _kind_of):
        if kind is None:
            yield from (piece for piece in group if isinstance(piece, bytes))
        else:
            yield from _encode_runs(kind, [piece for piece in group if isinstance(piece, RowsRun)])


def _kind_of(piece: Piece) -> RunKind | None:
    return None if isinstance(piece, bytes) else piece.kind


def _encode_runs(kind: RunKind, runs: list[RowsRun]) -> Iterator[bytes]:
    count = sum(len(run.ids) for run in runs)
    values = _texts(b"".join([run.rows for run in runs]), kind.dtype, (count, -1))
    scores = _texts(b"".join([run.scores for run in runs]), kind.score_dtype, (count, 1)) or [b""] * count
    labels = _texts(b"".join([run.labels for run in runs]), kind.label_dtype, (count, 1))
    classes = [b"[%b]" % label for label in labels] or [b"null"] * count
    head = kind.head
    place = 0
    for run in runs:
        ended, offset = run.ended, run.offset
        for record_id, principal, trace, began in zip(run.ids, run.principals, run.traces, run.began, strict=True):
            second, microsecond = divmod(int((began + offset) * 1e6), 1_000_000)
            yield (
                b'%b%b,"id":"%b","principal":%b,"at":"%b.%06dZ","values":[[%b]],"score":[%b],"label":%b,"latency_ms":%b}'
                % (
                    head,
                    b"" if trace is None else b',"trace_id":%b' % orjson.dumps(trace),
                    record_id.encode(),
                    _json_text(principal),
                    _second_text(second),
                    microsecond,
                    values[place],
                    scores[place],
                    classes[place],
                    repr(round((ended - began) * 1e3, 3)).encode(),
                )
            )
            place += 1


def _texts(data: bytes, dtype: str, shape: tuple[int, int]) -> list[bytes]:
    """Print rows of numbers as JSON without brackets; none where there is no dtype."""
    if not dtype:
        return []
    array = np.frombuffer(data, dtype).reshape(shape)
    return orjson.dumps(array, option=_WRITE)[2:-2].split(b"],[")


@lru_cache(_HEADS_MAX)
def _json_text(text: str) -> bytes:
    return orjson.dumps(text)


@lru_cache(_SECONDS_MAX)
def _second_text(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def _repeating(call: Call) -> tuple[Any, ...]:
    """Name what a record's head depends on: names, not objects, or a version would stay in memory for ever."""
    target = call.target
    endpoint, loaded = target.endpoint, target.loaded
    return endpoint.name, endpoint.tenant, loaded.model, loaded.version, target.arm, call.protocol


def _head(call: Call) -> bytes:
    """Encode the members that a call shares with others of its kind, without the closing brace."""
    target = call.target
    document = {
        "endpoint": target.endpoint.name,
        "model": target.loaded.model,
        "model_version": target.loaded.version,
        "arm": target.arm,
        "tenant": target.endpoint.tenant,
        "protocol": call.protocol,
        "columns": _columns(target.loaded, call.feeds_as_sent),
    }
    return orjson.dumps(document)[:-1]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    raise TypeError(type(value).__name__)


def _document(call: Call, offset: float) -> dict[str, Any]:
    loaded, outputs = call.runnable, call.outputs
    scores = labels = None
    if outputs is not None:
        scores = loaded.scores(outputs, call.output_names)
        labels = loaded.labels(outputs, call.output_names)
    return {
        "id": call.prediction_id,
        "principal": call.admission.caller.subject_id,
        "at": datetime.fromtimestamp(call.began + offset, UTC),
        "values": _values(loaded, call.feeds_as_sent),
        "entities": None if call.features is None else call.features.entities,
        "score": [] if scores is None else scores,
        "label": labels,
        "latency_ms": round(call.took_s * 1e3, 3),
        "error": call.error,
        "trace_id": None if call.trace is None else call.trace.trace_id,
    }


def _is_table(feeds: Sequence[NDArray[Any]]) -> bool:
    return len(feeds) == 1 and feeds[0].ndim == 2 and feeds[0].dtype.kind in "fiu"  # noqa: PLR2004  rows, columns


def _scalar_inputs(loaded: LoadedVersion, feeds: Sequence[NDArray[Any]]) -> list[tuple[str, NDArray[Any]]]:
    return [
        (spec.name, feed.reshape(len(feed)))
        for spec, feed in zip(loaded.signature.inputs, feeds, strict=True)
        if feed.dtype.kind in "fiub" and feed.ndim and feed.size == len(feed)
    ]


def _columns(loaded: LoadedVersion, feeds: Sequence[NDArray[Any]]) -> list[str]:
    names = loaded.signature.feature_names
    if _is_table(feeds):
        width = feeds[0].shape[1]
        return list(names) if len(names) == width else [f"f{i}" for i in range(width)]
    return [name for name, _ in _scalar_inputs(loaded, feeds)]


def _values(loaded: LoadedVersion, feeds: Sequence[NDArray[Any]]) -> Any:
    """Give the inputs as a table (rows, columns); tensors of more dimensions are left out of the log."""
    if _is_table(feeds):
        return np.ascontiguousarray(feeds[0])
    columns = [values.astype(np.float64) for _, values in _scalar_inputs(loaded, feeds)]
    return np.stack(columns, axis=1) if columns else []
