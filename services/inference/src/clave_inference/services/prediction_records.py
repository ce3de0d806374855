"""What the prediction log says about a request: `PredictionRecord` documents, encoded as cheaply as may be.

Requests of one row that ran together are encoded together: the JSON writer prints the rows of a run in one pass, and
what repeats (endpoint, version, arm, caller, columns) is encoded once. Every other request is encoded by itself.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from clave_inference.runtime.loaded_version import LoadedVersion
from clave_inference.services.call import Call

_HEADS_MAX: Final = 1_000
_WRITE: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class RecordEncoder:
    """Encodes records; remembers what repeats."""

    def __init__(self) -> None:
        self._heads: dict[tuple[Any, ...], bytes] = {}
        self._second = 0
        self._second_text = b""

    def encode_rows(
        self,
        calls: Sequence[Call],
        rows: NDArray[Any],
        scores: NDArray[Any] | None,
        labels: NDArray[Any] | None,
        ended: float,
    ) -> list[bytes]:
        """Encode requests of one row that ran together; arguments as of `PredictionLog.add_run`."""
        count = len(calls)
        values = orjson.dumps(rows, option=_WRITE)[2:-2].split(b"],[")
        score_texts = [b""] * count if scores is None else orjson.dumps(scores, option=_WRITE)[1:-1].split(b",")
        label_texts = [b"null"] * count
        if labels is not None:
            label_texts = [b"[%b]" % text for text in orjson.dumps(labels, option=_WRITE)[1:-1].split(b",")]
        offset = time.time() - time.monotonic()
        records: list[bytes] = []
        target = caller = None
        head = b""
        for call, row, score, label in zip(calls, values, score_texts, label_texts, strict=True):
            if call.target is not target or call.admission.caller is not caller:
                target, caller = call.target, call.admission.caller
                head = self._head(call)
            second, fraction = divmod(call.began + offset, 1.0)
            if second != self._second:
                self._second = int(second)
                self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
            records.append(
                b'%b%b"id":"%b","at":"%b.%06dZ","values":[[%b]],"score":[%b],"label":%b,"latency_ms":%.3f}'
                % (
                    head,
                    b"" if call.trace is None else b'"trace_id":"%b",' % call.trace.trace_id.encode(),
                    call.prediction_id.encode(),
                    self._second_text,
                    fraction * 1e6,
                    row,
                    score,
                    label,
                    (ended - call.began) * 1e3,
                )
            )
        return records

    def encode(self, call: Call) -> bytes:
        """Encode any one request."""
        offset = time.time() - time.monotonic()
        document = orjson.dumps(_document(call, offset), option=_WRITE, default=_plain)
        return self._head(call) + document[1:]

    def _head(self, call: Call) -> bytes:
        """Give the members that a call shares with others of its kind, without the closing brace."""
        target, caller = call.target, call.admission.caller
        endpoint, loaded = target.endpoint, target.loaded
        # Names, not objects: a key must not keep a version in memory that nothing serves any more.
        key = (
            endpoint.name,
            endpoint.tenant,
            loaded.model,
            loaded.version,
            target.arm,
            caller.subject_id,
            call.protocol,
        )
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            document = {
                "endpoint": endpoint.name,
                "model": loaded.model,
                "model_version": loaded.version,
                "arm": target.arm,
                "principal": caller.subject_id,
                "tenant": endpoint.tenant,
                "protocol": call.protocol,
                "columns": _columns(loaded, call.feeds_as_sent),
            }
            head = self._heads[key] = orjson.dumps(document)[:-1] + b","
        return head


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
