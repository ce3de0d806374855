"""Relays the outbox's rows to Redis streams: at least once, in order, by any number of relays."""

import asyncio

from redis.asyncio import Redis
from sqlalchemy import text

from clave_common.background import Background
from clave_common.database import Database

# Commits that follow each other closely go in one batch; nobody waits for an event for less.
_GATHER_S = 0.01
_BATCH_ROWS = 200
_STREAM_LENGTH_MAX = 100_000
LOOP_NAME = "outbox"


class OutboxRelay:
    """Moves committed rows to their streams; a row is deleted only after Redis took it."""

    def __init__(self, database: Database, redis: Redis, *, idle_s: float = 1.0) -> None:
        self._database = database
        self._redis = redis
        self._idle_s = idle_s
        self._table = f"{database.metadata.schema}.outbox"

    async def relay_once(self) -> int:
        """Relay one batch.

        Returns:
            Number of rows relayed, 0 when the outbox is empty.
        """
        async with self._database.transaction() as tx:
            rows = (
                await tx.session.execute(
                    text(
                        f"select seq, stream, id, body from {self._table} "  # noqa: S608 - own table
                        "order by seq limit :n for update skip locked"
                    ),
                    {"n": _BATCH_ROWS},
                )
            ).all()
            if not rows:
                return 0
            pipeline = self._redis.pipeline(transaction=False)
            for row in rows:
                pipeline.xadd(
                    row.stream,
                    {"id": row.id, "body": bytes(row.body)},
                    maxlen=_STREAM_LENGTH_MAX,
                    approximate=True,
                )
            await pipeline.execute()
            await tx.session.execute(
                text(f"delete from {self._table} where seq = any(:seqs)"),  # noqa: S608 - own table
                {"seqs": [row.seq for row in rows]},
            )
        return len(rows)

    async def run(self, background: Background) -> None:
        """Relay until cancelled: at once what this process committed, within `idle_s` what another one did."""
        while True:
            self._database.outbox_filled.clear()
            moved = await self.relay_once()
            background.healthy(LOOP_NAME)
            if moved < _BATCH_ROWS:  # what is committed from here on sets the event again
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._idle_s):
                await self._database.outbox_filled.wait()
                await asyncio.sleep(_GATHER_S)
        except TimeoutError:
            return
