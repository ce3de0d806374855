"""Reads Redis streams through consumer groups: at least once; handlers are idempotent by event id."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from clave_common.background import Background
from clave_common.errors import InvalidArgument
from clave_common.logs import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream.

    Attributes:
        stream: Name of the stream.
        position: Redis's entry id.
        id: The event's own id, by which a handler is idempotent.
        body: JSON bytes of the event.
    """

    stream: str
    position: bytes
    id: str
    body: bytes


# Looking for what dead consumers left costs a round trip; a second more or less is nothing to their half minute.
_CLAIM_EVERY_S = 1.0
Handler = Callable[[Sequence[Entry]], Awaitable[None]]


class StreamConsumer:
    """One consumer of a group over one or more streams.

    Entries are acknowledged after the handler returned; what a dead consumer left behind is claimed after
    `claim_after_ms`. A stream that was lost (Redis without its file) is created again and read from its start.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        streams: Sequence[str],
        group: str,
        consumer: str,
        batch_max: int = 256,
        block_ms: int = 1000,
        claim_after_ms: int = 30_000,
    ) -> None:
        self._redis = redis
        self._streams = list(streams)
        self._group = group
        self._consumer = consumer
        self._batch_max = batch_max
        self._block_ms = block_ms
        self._claim_after_ms = claim_after_ms
        self._claim_every_s = min(_CLAIM_EVERY_S, claim_after_ms / 1000)

    async def ensure_groups(self) -> None:
        """Create the group on every stream, reading from the start; an existing one is left as it is."""
        for stream in self._streams:
            try:
                await self._redis.xgroup_create(stream, self._group, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def run(self, handler: Handler, background: Background, loop_name: str) -> None:
        """Handle entries until cancelled; own unacknowledged ones first."""
        await self.ensure_groups()
        await self._drain_own(handler)
        own_task = asyncio.current_task()
        clock, claimed_at = asyncio.get_running_loop(), float("-inf")
        while True:
            if clock.time() - claimed_at >= self._claim_every_s:
                claimed_at = clock.time()
                await self._claim(handler)
            if await self._read(">", handler) == 0:
                background.healthy(loop_name)
            if own_task is not None and own_task.cancelling():
                raise asyncio.CancelledError  # the cancellation came, and a driver or the handler swallowed it

    async def _drain_own(self, handler: Handler) -> None:
        while await self._read("0", handler):
            pass

    async def _read(self, after: str, handler: Handler) -> int:
        try:
            answer = await self._redis.xreadgroup(
                self._group,
                self._consumer,
                dict.fromkeys(self._streams, after),
                count=self._batch_max,
                block=self._block_ms if after == ">" else None,
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.ensure_groups()
            return 0
        handled = 0
        for stream, entries in _batches(answer):
            handled += await self._handle(_text(stream), entries, handler)
        return handled

    async def _claim(self, handler: Handler) -> None:
        for stream in self._streams:
            _next, entries, *_gone = await self._redis.xautoclaim(
                stream, self._group, self._consumer, self._claim_after_ms, count=self._batch_max
            )
            await self._handle(stream, entries, handler)

    async def _handle(self, stream: str, raw: Sequence[tuple[bytes, dict[bytes, bytes]]], handler: Handler) -> int:
        entries = [
            Entry(stream, position, _text(fields[b"id"]), fields[b"body"])
            for position, fields in raw
            if fields and b"id" in fields and b"body" in fields
        ]
        if entries:
            await self._hand_over(entries, handler)
        if raw:
            await self._redis.xack(stream, self._group, *[position for position, _ in raw])
        return len(raw)

    async def _hand_over(self, entries: Sequence[Entry], handler: Handler) -> None:
        """Give entries to the handler; one that no database can hold is left out, or it would stop all behind it."""
        try:
            await handler(entries)
        except InvalidArgument as error:
            if len(entries) == 1:
                _log.error("stream_entry_left_out", stream=entries[0].stream, entry_id=entries[0].id, code=error.code)
                return
            for entry in entries:
                await self._hand_over([entry], handler)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _batches(answer: Any) -> Iterator[tuple[bytes | str, Sequence[tuple[bytes, dict[bytes, bytes]]]]]:
    """Level what redis-py gives under RESP 2 (pairs) and RESP 3 (a mapping to a list of lists)."""
    if isinstance(answer, dict):
        for stream, groups in answer.items():
            for entries in groups:
                yield stream, entries
        return
    yield from answer or ()
