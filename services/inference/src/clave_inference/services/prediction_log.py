"""Records every answered request for the monitor, without ever delaying an answer.

Requests leave a small tuple here. A flush, a few milliseconds later, turns tuples into `PredictionRecord` documents and
adds them to the stream as one entry. While Redis is away, or the stream is full because nobody reads it, entries go to
the spool on disk and follow later, in order. What neither place could hold is counted; nothing is lost in silence.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import orjson
from clave_common.background import Background
from clave_common.ids import new_id
from clave_common.logs import get_logger
from clave_common.redis_client import REDIS_AWAY
from clave_contracts.events import PREDICTION_STREAM
from numpy.typing import NDArray
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from clave_inference.domain.routing import ArmRole
from clave_inference.metrics import PredictionMetrics
from clave_inference.runtime.loaded_version import LoadedVersion
from clave_inference.services.call import Call
from clave_inference.storage.spool import Spool, SpoolFull

_log = get_logger(__name__)
_RECORDS_PER_ENTRY = 256
_HEADS_MAX = 1_000
SHADOW = ArmRole.SHADOW.value
_WRITE = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_REPLAY_PER_ROUND = 200


class Stream(Protocol):
    """Where entries go."""

    async def add(self, entry_id: str, body: bytes) -> None:
        """Append an entry; raises what `REDIS_AWAY` names, or RedisError."""
        ...

    async def has_room(self) -> bool:
        """Whether the stream takes more."""
        ...


class PredictionStream:
    """The stream `clave.predictions`, kept short: what every consumer group has finished is trimmed."""

    def __init__(self, redis: Redis, *, entries_max: int) -> None:
        self._redis = redis
        self._entries_max = entries_max

    async def add(self, entry_id: str, body: bytes) -> None:
        """Append an entry."""
        await self._redis.xadd(PREDICTION_STREAM, {"id": entry_id, "body": body})

    async def has_room(self) -> bool:
        """Trim what all groups have acknowledged, and see whether the rest is below the limit."""
        await self._trim()
        return int(await self._redis.xlen(PREDICTION_STREAM)) < self._entries_max

    async def _trim(self) -> None:
        try:
            groups = await self._redis.xinfo_groups(PREDICTION_STREAM)
        except ResponseError:  # there is no stream yet
            return
        finished: list[tuple[int, int]] = []
        for group in groups:
            oldest = await self._redis.xpending(PREDICTION_STREAM, group["name"])
            finished.append(_position(oldest["min"] or group["last-delivered-id"]))
        if finished:
            milliseconds, sequence = min(finished)
            await self._redis.xtrim(PREDICTION_STREAM, minid=f"{milliseconds}-{sequence}", approximate=True)


def _position(entry_id: bytes | str) -> tuple[int, int]:
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence or 0)


class PredictionLog:
    """The prediction log of one process.

    Args:
        stream: Where entries go.
        spool: Where they wait while the stream does not take them.
        metrics: Told about every answer, a flush at a time.
        flush_after_s: Seconds that a record waits for company.
        buffered_max: Records in memory at most; beyond, the oldest part is written out at once.
    """

    def __init__(
        self,
        *,
        stream: Stream,
        spool: Spool,
        metrics: PredictionMetrics,
        flush_after_s: float,
        buffered_max: int,
    ) -> None:
        self._metrics = metrics
        self._stream = stream
        self._spool = spool
        self._flush_after_s = flush_after_s
        self._buffered_max = buffered_max
        self._records: list[Call] = []
        self._heads = RecordHeads()
        self._wake = asyncio.Event()
        self._room = True
        self._room_checked_at = 0.0
        self.logged = 0
        self.spooled = 0
        self.dropped = 0
        self.stream_away = False

    def add(self, record: Call) -> None:
        """Take a record; never waits, never raises."""
        if len(self._records) >= self._buffered_max:
            self.dropped += 1
            return
        self._records.append(record)
        if len(self._records) == 1 or len(self._records) == _RECORDS_PER_ENTRY:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """Records in memory plus entries on disk."""
        return len(self._records) + self._spool.entries

    async def run(self, background: Background, loop_name: str) -> None:
        """Flush until cancelled; replay the spool whenever the stream takes entries again."""
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), 1.0)
            except TimeoutError:
                await self._replay()
                background.healthy(loop_name)
                continue
            self._wake.clear()
            if len(self._records) < _RECORDS_PER_ENTRY:
                await asyncio.sleep(self._flush_after_s)
            await self.flush()
            if self._spool.entries:
                await self._replay()

    async def flush(self) -> None:
        """Write out everything that waits in memory."""
        while self._records:
            part, self._records = self._records[:_RECORDS_PER_ENTRY], self._records[_RECORDS_PER_ENTRY:]
            self._metrics.succeeded([call for call in part if call.error is None and call.arm != SHADOW])
            entry_id, body = new_id("plb"), encode_records(part, self._heads)
            # Entries keep their order: while the spool holds older ones, new ones queue behind them.
            if self._spool.entries or not await self._sent(entry_id, body):
                self._keep(entry_id, body, len(part))
            else:
                self.logged += len(part)

    async def _sent(self, entry_id: str, body: bytes) -> bool:
        try:
            if not await self._has_room():
                return False
            await self._stream.add(entry_id, body)
        except (*REDIS_AWAY, RedisError) as error:
            if not self.stream_away:
                _log.warning("prediction_stream_away", error=type(error).__name__)
            self.stream_away = True
            return False
        if self.stream_away:
            _log.info("prediction_stream_back")
        self.stream_away = False
        return True

    async def _has_room(self) -> bool:
        now = time.monotonic()
        if now - self._room_checked_at > 1.0:
            self._room_checked_at = now
            self._room = await self._stream.has_room()
        return self._room

    def _keep(self, entry_id: str, body: bytes, records: int) -> None:
        try:
            self._spool.append(entry_id, body)
            self.spooled += records
        except SpoolFull as fault:
            self.dropped += records
            _log.error("predictions_dropped", records=records, reason=str(fault))

    async def _replay(self) -> None:
        for _ in range(_REPLAY_PER_ROUND):
            entry = self._spool.peek()
            if entry is None or not await self._sent(*entry):
                return
            self._spool.advance()

    async def close(self) -> None:
        """Write out the rest before the process ends."""
        await self.flush()
        self._spool.close()


class RecordHeads:
    """The part of a record that repeats, encoded once: endpoint, model, version, arm, caller, columns."""

    def __init__(self) -> None:
        self._heads: dict[tuple[Any, ...], bytes] = {}

    def head(self, call: Call) -> bytes:
        """Give the members that a call shares with others of its kind, without the closing brace."""
        target, caller = call.target, call.admission.caller
        key = (target, caller.subject_id, call.protocol)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            loaded = target.loaded
            document = {
                "endpoint": target.endpoint.name,
                "model": loaded.model,
                "model_version": loaded.version,
                "arm": target.arm,
                "principal": caller.subject_id,
                "tenant": target.endpoint.tenant,
                "protocol": call.protocol,
                "columns": _columns(loaded, call.feeds),
            }
            head = self._heads[key] = orjson.dumps(document)[:-1] + b","
        return head


def encode_records(calls: Sequence[Call], heads: RecordHeads) -> bytes:
    """Encode answered calls as the JSON array that `PredictionRecord` describes."""
    offset = time.time() - time.monotonic()
    records = [
        heads.head(call) + orjson.dumps(_document(call, offset), option=_WRITE, default=_plain)[1:] for call in calls
    ]
    return b"[" + b",".join(records) + b"]"


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
        "values": _values(loaded, call.feeds),
        "entities": None if call.features is None else call.features.entities,
        "score": [] if scores is None else scores,
        "label": labels,
        "latency_ms": round(call.took_s * 1e3, 3),
        "error": call.error,
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
