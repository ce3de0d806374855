"""Relays the outbox's rows to Redis streams: at least once, in order, by any number of relays.

A row is taken and deleted in one statement, and the deletion commits after Redis took it. That commit waits for no disk
(`synchronous_commit`): what a crash of Postgres brings back is sent again, which every consumer knows by its id.
Audit entries are signed here, as they leave: some statements put into an entry what only they know (a new version's
number), and no request pays for it.
"""

import asyncio

from clave_contracts.events import AUDIT_STREAM, audit_stream
from redis.asyncio import Redis
from sqlalchemy import text

from clave_common.audit_signatures import AuditSigner
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
    """Moves committed rows to their streams; a row is deleted only after Redis took it.

    Args:
        signer: Signs audit entries; the log refuses those of a relay that has none.
        idle_s: Seconds until the outbox is looked into without being called.
    """

    def __init__(self, database: Database, redis: Redis, signer: AuditSigner | None, *, idle_s: float = 1.0) -> None:
        self._database = database
        self._redis = redis
        self._signer = signer
        self._idle_s = idle_s
        self._service = database.service
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
                stream, body = self._leaving(row.stream, bytes(row.body))
                pipeline.xadd(
                    stream,
                    {"id": row.id, "body": body},
                    maxlen=_STREAM_LENGTH_MAX,
                    approximate=True,
                )
            await pipeline.execute()
        return len(rows)

    def _leaving(self, stream: str, body: bytes) -> tuple[str, bytes]:
        if stream != AUDIT_STREAM:
            return stream, body
        return audit_stream(self._service), body if self._signer is None else self._signer.signed(body)

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
