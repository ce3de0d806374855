"""What the prediction log says about a request: parts of a batch on the stream, made as cheaply as may be.

Ordinary requests (one row) that ran together are one table: their numbers as they lie in memory, what repeats
(endpoint, version, arm, columns) encoded once. Every other request is a `PredictionRecord` of its own, as JSON. The
same bytes go into the journal and onto the stream, where `clave_contracts.prediction_batches` reads them.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
import orjson
from clave_contracts.prediction_batches import MalformedBatch, batch, documents, kind_part, record_part, table_part
from numpy.typing import NDArray

from clave_inference.runtime.loaded_version import LoadedVersion
from clave_inference.services.call import Call
from clave_inference.services.serving import Target

_HEADS_MAX: Final = 1_000
_WRITE: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class RunKind(msgspec.Struct, frozen=True, gc=False):
    """What runs have in common whose rows look alike.

    Attributes:
        part: All of it, as a part of a batch.
        score_dtype: Of the scores; empty where there are none.
    """

    endpoint: str
    version: str
    arm: str
    protocol: str
    part: bytes
    score_dtype: str


class AnsweredRows(msgspec.Struct, gc=False):
    """Ordinary requests, of one row each, that one version answered together.

    Attributes:
        target: What answered them.
        protocol: ``rest`` or ``grpc``.
        rows: What they brought, shape (requests, columns).
        outputs: What they got, the same number of rows.
        ids: Prediction ids.
        principals: Who asked.
        traces: Trace ids; None where no request named one.
        began: When they arrived, monotonic seconds.
        ended: When they were answered.
    """

    target: Target
    protocol: str
    rows: NDArray[Any]
    outputs: Sequence[NDArray[Any]]
    ids: list[str]
    principals: list[str]
    traces: list[str | None] | None
    began: list[float]
    ended: float


class Piece(msgspec.Struct, gc=False):
    """What waits for a flush: ordinary requests that ran together, or records that are encoded already.

    Attributes:
        part: All of it, as parts of a batch; of a run without its kind's.
        records: How many there are.
        kind: Of a run.
        began: Of a run, when its requests arrived, monotonic seconds.
        ended: Of a run, when it ended.
        scores: Of a run, the scores' bytes.
    """

    part: bytes
    records: int
    kind: RunKind | None = None
    began: Sequence[float] = ()
    ended: float = 0.0
    scores: bytes = b""

    def journal_form(self) -> bytes:
        """Give the bytes for the journal: parts that make sense by themselves."""
        return self.part if self.kind is None else self.kind.part + self.part


def recovered(form: bytes) -> Piece | None:
    """Make a piece of the journal's bytes again; None where they are damaged."""
    try:
        return Piece(form, len(documents(batch((form,)))))
    except MalformedBatch:
        return None


def batches(pieces: Iterable[Piece], records_max: int) -> Iterator[tuple[bytes, int]]:
    """Join pieces into bodies of entries, in their order.

    Args:
        pieces: What waited.
        records_max: Records in one body, unless a single piece has more.

    Returns:
        Every body, and how many records it holds.
    """
    parts: list[bytes] = []
    held = 0
    kind: RunKind | None = None
    for piece in pieces:
        if held and held + piece.records > records_max:
            yield batch(parts), held
            parts, held, kind = [], 0, None
        if piece.kind is not None and piece.kind is not kind:
            kind = piece.kind
            parts.append(kind.part)
        parts.append(piece.part)
        held += piece.records
        if piece.kind is None:
            kind = None  # recovered parts may bring a kind of their own
    if held:
        yield batch(parts), held


class RunKinds:
    """Makes pieces; remembers what repeats in them."""

    def __init__(self) -> None:
        self._heads: dict[tuple[Any, ...], bytes] = {}

    def run(self, answered: AnsweredRows) -> Piece:
        """Describe requests of one row on one target."""
        target, outputs = answered.target, answered.outputs
        loaded = target.loaded
        names = loaded.output_names
        scores, labels = loaded.scores(outputs, names), loaded.labels(outputs, names)
        kind = target.log_kinds.get(answered.protocol)
        if kind is None:
            kind = target.log_kinds[answered.protocol] = _kind(target, answered.protocol, answered.rows, scores, labels)
        given = b"" if scores is None else scores.tobytes()
        table = table_part(
            ids=answered.ids,
            principals=answered.principals,
            traces=answered.traces,
            began=answered.began,
            ended=answered.ended,
            offset=time.time() - answered.ended,
            rows=answered.rows.tobytes(),
            scores=given,
            labels=b"" if labels is None else labels.tobytes(),
        )
        return Piece(table, len(answered.ids), kind, answered.began, answered.ended, given)

    def record(self, call: Call) -> Piece:
        """Describe any one request."""
        key = _repeating(call)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            head = self._heads[key] = orjson.dumps(_repeated(call.target, call.protocol, call.feeds))[:-1] + b","
        offset = time.time() - time.monotonic()
        text = head + orjson.dumps(_document(call, offset), option=_WRITE, default=_plain)[1:]
        return Piece(record_part(text), 1)


def _kind(
    target: Target, protocol: str, rows: NDArray[Any], scores: NDArray[Any] | None, labels: NDArray[Any] | None
) -> RunKind:
    score_dtype = "" if scores is None else scores.dtype.str
    part = kind_part(
        _repeated(target, protocol, (rows,)),
        dtype=rows.dtype.str,
        score_dtype=score_dtype,
        label_dtype="" if labels is None else labels.dtype.str,
    )
    return RunKind(target.endpoint.name, target.version_text, target.arm, protocol, part, score_dtype)


def _repeating(call: Call) -> tuple[Any, ...]:
    """Name what a record's head depends on: names, not objects, or a version would stay in memory for ever."""
    target = call.target
    endpoint, loaded = target.endpoint, target.loaded
    return endpoint.name, endpoint.tenant, loaded.model, loaded.version, target.arm, call.protocol


def _repeated(target: Target, protocol: str, feeds: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """Give the members of a record that a request shares with others of its kind."""
    return {
        "endpoint": target.endpoint.name,
        "model": target.loaded.model,
        "model_version": target.loaded.version,
        "arm": target.arm,
        "tenant": target.endpoint.tenant,
        "protocol": protocol,
        "columns": _columns(target.loaded, feeds),
    }


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
        "values": _values(loaded, call.feeds),
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
