"""Relays the outbox's rows to Redis streams: at least once, in order, by any number of relays.

A row is taken and deleted in one statement, and the deletion commits after Redis took it. That commit waits for no disk
(`synchronous_commit`): what a crash of Postgres brings back is sent again, which every consumer knows by its id.
"""

import asyncio

from redis.asyncio import Redis
from sqlalchemy import text

from clave_common.background import Background
from clave_common.database import Database

# Commits that follow each other closely go in one batch; nobody waits for an event for less. Who commits all the time
# shares a batch with more of them, so that a relay's rounds do not cost as much as the changes that they tell of.
_GATHER_S = 0.01
_ROUND_S = 0.05
_BATCH_ROWS = 200
_STREAM_LENGTH_MAX = 100_000
LOOP_NAME = "outbox"


class OutboxRelay:
    """Moves committed rows to their streams; a row is deleted only after Redis took it."""

    def __init__(self, database: Database, redis: Redis, *, idle_s: float = 1.0) -> None:
        self._database = database
        self._redis = redis
        self._idle_s = idle_s
        table = f"{database.metadata.schema}.outbox"
        self._take = text(
            "with quick as (select set_config('synchronous_commit', 'off', true)), "  # noqa: S608 - own table
            f"due as (select seq from {table} order by seq limit :n for update skip locked) "
            f"delete from {table} gone using due, quick where gone.seq = due.seq "
            "returning gone.seq, gone.stream, gone.id, gone.body"
        )

    async def relay_once(self) -> int:
        """Relay one batch.

        Returns:
            Number of rows relayed, 0 when the outbox is empty.
        """
        async with self._database.transaction() as tx:
            rows = (await tx.session.execute(self._take, {"n": _BATCH_ROWS})).all()
            if not rows:
                return 0
            pipeline = self._redis.pipeline(transaction=False)
            for row in sorted(rows, key=lambda row: row.seq):
                pipeline.xadd(
                    row.stream,
                    {"id": row.id, "body": bytes(row.body)},
                    maxlen=_STREAM_LENGTH_MAX,
                    approximate=True,
                )
            await pipeline.execute()
        return len(rows)

    async def run(self, background: Background) -> None:
        """Relay until cancelled: at once what this process committed, within `idle_s` what another one did."""
        clock = asyncio.get_running_loop()
        while True:
            self._database.outbox_filled.clear()
            began = clock.time()
            moved = await self.relay_once()
            background.healthy(LOOP_NAME)
            if moved < _BATCH_ROWS:  # what is committed from here on sets the event again
                await self._wait(not_before=began + _ROUND_S)

    async def _wait(self, *, not_before: float) -> None:
        try:
            async with asyncio.timeout(self._idle_s):
                await self._database.outbox_filled.wait()
        except TimeoutError:
            return
        await asyncio.sleep(max(_GATHER_S, not_before - asyncio.get_running_loop().time()))
