"""A connection that notices a Postgres which hangs.

A server that was stopped, or whose disk stands still, keeps its sockets open and says nothing; a query would wait for
it for ever, and the statement's time limit is the server's own. So whenever an answer takes longer than `SILENCE_S`,
the connection tries to open another one. A server that is merely busy lets it in, and the query goes on. One that does
not is given up: the query ends with an error, its caller is refused, and nobody waits longer than `SILENCE_S` and
`CONNECT_S` together.
"""

import asyncio
import os
import socket
from typing import Any

import psycopg
from psycopg.errors import ConnectionTimeout
from psycopg.rows import Row

from clave_common.logs import get_logger

SILENCE_S = 2.0
CONNECT_S = 5
_log = get_logger(__name__)


class WatchedConnection(psycopg.AsyncConnection[Row]):
    """psycopg's connection, which gives a silent server up."""

    async def wait(self, *arguments: Any, **named: Any) -> Any:
        """Wait for an answer as psycopg does, and doubt the server when none comes."""
        watch = _Watch(self)
        try:
            return await super().wait(*arguments, **named)
        finally:
            watch.end()


class _Watch:
    """Doubts the server again and again for as long as one answer does not come."""

    __slots__ = ("_connection", "_probe", "_timer")

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._probe: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(SILENCE_S, self._doubt)

    def end(self) -> None:
        self._timer.cancel()
        if self._probe is not None:
            self._probe.cancel()

    def _doubt(self) -> None:
        self._probe = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        facts = self._connection.info
        arguments: dict[str, Any] = {**facts.get_parameters(), "password": facts.password or None}
        try:
            other = await psycopg.AsyncConnection.connect(**{**arguments, "connect_timeout": CONNECT_S})
        except ConnectionTimeout:
            _log.warning("postgres_hangs", silent_s=SILENCE_S + CONNECT_S)
            _hang_up(self._connection.pgconn.socket)
            return
        except psycopg.OperationalError:
            # It refused, so it is there: starting, ending or full. Its end would have closed our socket.
            self._timer = asyncio.get_running_loop().call_later(SILENCE_S, self._doubt)
            return
        await other.close()
        self._timer = asyncio.get_running_loop().call_later(SILENCE_S, self._doubt)


def _hang_up(descriptor: int) -> None:
    """End a connection under its reader, who sees it closed."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
