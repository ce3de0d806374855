"""Records every answered request for the monitor, without ever delaying an answer.

What ran together is kept together, and stands in the journal on disk before its answers leave. A flush, a few
milliseconds later, counts it and adds it to the stream (`prediction_records`). While Redis is away, or the
stream is full because nobody reads it, entries go to the spool on disk and follow later, in order. What neither place
could hold is counted; nothing is lost in silence.
"""

import asyncio
import time
from typing import Protocol

from clave_common.background import Background
from clave_common.ids import new_id
from clave_common.logs import get_logger
from clave_common.redis_client import REDIS_AWAY
from clave_contracts.events import PREDICTION_STREAM
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from clave_inference.domain.routing import ArmRole
from clave_inference.metrics import PredictionMetrics
from clave_inference.services.call import Call
from clave_inference.services.prediction_records import (
    AnsweredRows,
    Piece,
    RunKinds,
    batches,
    recovered,
)
from clave_inference.storage.journal import Journal
from clave_inference.storage.spool import Spool, SpoolFull

_log = get_logger(__name__)
_RECORDS_PER_ENTRY = 256
SHADOW = ArmRole.SHADOW.value
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
        journal: Keeps records from the answer to the flush.
        metrics: Told about every answer, a run at a time.
        flush_after_s: Seconds that a record waits for company.
        buffered_max: Records in memory at most; beyond, new ones are dropped and counted.
    """

    def __init__(
        self,
        *,
        stream: Stream,
        spool: Spool,
        journal: Journal,
        metrics: PredictionMetrics,
        flush_after_s: float,
        buffered_max: int,
    ) -> None:
        self._metrics = metrics
        self._stream = stream
        self._spool = spool
        self._journal = journal
        self._flush_after_s = flush_after_s
        self._buffered_max = buffered_max
        self._pieces: list[Piece] = []
        self._held = 0
        self._kinds = RunKinds()
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._room = True
        self._room_checked_at = 0.0
        self.logged = 0
        self.spooled = 0
        self.dropped = 0
        self.stream_away = False
        self._recover()

    def _recover(self) -> None:
        """Keep what a killed process left behind; the same parts go on to the stream."""
        forms = self._journal.left_behind()
        sound = [piece for form in forms if (piece := recovered(form))]
        for body, records in batches(sound, _RECORDS_PER_ENTRY):
            self._keep(new_id("plb"), body, records)
        if forms:
            records = sum(piece.records for piece in sound)
            _log.warning("prediction_journal_recovered", records=records, damaged_pieces=len(forms) - len(sound))
        self._journal.clear()

    def add_rows(self, answered: AnsweredRows) -> None:
        """Take the ordinary requests of a run, one entry per request everywhere; never waits."""
        self._take(self._kinds.run(answered))

    def add(self, call: Call) -> None:
        """Take any one request; never waits."""
        self._take(self._kinds.record(call))
        if call.error is None and call.arm != SHADOW:
            self._metrics.succeeded(call)

    def _take(self, piece: Piece) -> None:
        before = self._held
        if before >= self._buffered_max:
            self.dropped += piece.records
            return
        self._journal.write(piece.journal_form())
        self._pieces.append(piece)
        self._held = held = before + piece.records
        if not before or before < _RECORDS_PER_ENTRY <= held:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """Records in memory plus entries on disk."""
        return self._held + self._spool.entries

    async def run(self, background: Background, loop_name: str) -> None:
        """Flush until cancelled; replay the spool whenever the stream takes entries again."""
        while True:
            try:
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            except TimeoutError:
                await self._replay()
                background.healthy(loop_name)
                continue
            self._wake.clear()
            if self._held < _RECORDS_PER_ENTRY:
                await asyncio.sleep(self._flush_after_s)
            await self.flush()
            if self._pieces:  # came while the flush waited for Redis: they wait for company like the others
                self._wake.set()
            if self._spool.entries:
                await self._replay()

    async def flush(self) -> None:
        """Write out what waits in memory now."""
        async with self._flushing:  # one at a time: segments of the journal are finished in their order
            await self._flush_all()

    async def _flush_all(self) -> None:
        pieces, self._pieces = self._pieces, []
        if not pieces:
            return
        self._held = 0
        segment = self._journal.turn()
        self._metrics.succeeded_together(piece for piece in pieces if piece.kind is not None)
        for body, records in batches(pieces, _RECORDS_PER_ENTRY):
            entry_id = new_id("plb")
            # Entries keep their order: while the spool holds older ones, new ones queue behind them.
            if self._spool.entries or not await self._sent(entry_id, body):
                self._keep(entry_id, body, records)
            else:
                self.logged += records
        self._journal.finished(segment)

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
        self._journal.close()
        self._spool.close()
