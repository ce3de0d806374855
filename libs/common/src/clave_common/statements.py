"""Runs single statements over the driver itself: one round trip, one transaction, nothing in between.

SQLAlchemy's session costs a small query several times what Postgres does. Operations that are one statement and are
asked for all the time (which version does this alias name?) go this way; everything else goes through
`Database.transaction`. A statement that changes rows writes its audit entry and events in the same statement
(`TELLING`), so that they stand or fall together.
"""

import asyncio
import select
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import psycopg
from clave_contracts.events import AUDIT_STREAM, AuditEntry, Event, event_stream
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads

from clave_common.watched_connection import WatchedConnection

TELLING = "unnest(%(streams)s::text[], %(ids)s::text[], %(bodies)s::text[]) as told (stream, id, body)"
"""The rows that tell others what a statement did, as ``from`` of its insert into ``outbox`` (stream, id, body)."""


def told(service: str, said: Sequence[Event | AuditEntry]) -> dict[str, list[str]]:
    """Give the parameters of `TELLING`.

    Args:
        service: Whose events they are.
        said: Events and audit entries, in the order in which they are relayed.
    """
    return {
        "streams": [AUDIT_STREAM if isinstance(each, AuditEntry) else event_stream(service) for each in said],
        "ids": [each.id for each in said],
        "bodies": [each.model_dump_json() for each in said],
    }


class StatementLane:
    """A few connections on which every statement commits by itself.

    Args:
        arguments: psycopg's connection arguments.
        connections_max: Connections at once; whoever finds none free waits.
    """

    def __init__(self, arguments: Mapping[str, Any], *, connections_max: int) -> None:
        self._arguments = dict(arguments)
        self._idle: list[psycopg.AsyncConnection[DictRow]] = []
        self._places = asyncio.Semaphore(connections_max)

    async def run(self, statement: str, facts: Mapping[str, Any]) -> list[DictRow]:
        """Run one statement and give its rows.

        Raises:
            psycopg.Error: As the driver raises it.
        """
        async with self._connection() as connection:
            cursor = await connection.execute(statement, facts)
            return await cursor.fetchall() if cursor.description else []

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
        async with self._places:
            connection = await self._take()
            try:
                yield connection
            finally:
                # A connection that is broken, or in the middle of something because its user was cancelled, goes.
                if connection.info.transaction_status == TransactionStatus.IDLE:
                    self._idle.append(connection)
                else:
                    await connection.close()

    async def _take(self) -> psycopg.AsyncConnection[DictRow]:
        while self._idle:
            connection = self._idle.pop()
            if not hung_up(connection):
                return connection
            await connection.close()
        connection = await WatchedConnection.connect(**self._arguments, autocommit=True, row_factory=dict_row)
        set_json_loads(orjson.loads, connection)
        return connection

    async def close(self) -> None:
        """Give every idle connection back."""
        while self._idle:
            await self._idle.pop().close()


def hung_up(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Tell whether the server has something to say on a connection at rest: it never does, unless it went away.

    This takes two microseconds where asking the server takes a round trip.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))
