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
import time
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import psycopg
from psycopg.errors import ConnectionTimeout
from psycopg.rows import Row

from clave_common.logs import get_logger

SILENCE_S = 2.0
CONNECT_S = 5
_log = get_logger(__name__)


class WatchedConnection(psycopg.AsyncConnection[Row]):
    """psycopg's connection, which gives a silent server up."""

    _since: float | None = None
    _is_watched = False
    _probe: asyncio.Task[None] | None = None

    async def wait(self, *arguments: Any, **named: Any) -> Any:
        """Wait for an answer as psycopg does, and let the loop's watch see since when."""
        if not self._is_watched:
            self._is_watched = True
            _watch().add(self)
        self._since = time.monotonic()
        try:
            return await super().wait(*arguments, **named)
        finally:
            self._since = None
            if self._probe is not None:
                self._probe.cancel()
                self._probe = None

    def doubt(self, now: float) -> None:
        """Ask whether the server is there, where it has been silent for too long."""
        is_asking = self._probe is not None and not self._probe.done()
        if self._since is not None and now - self._since > SILENCE_S and not is_asking:
            self._probe = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        facts = self.info
        arguments: dict[str, Any] = {**facts.get_parameters(), "password": facts.password or None}
        try:
            other = await psycopg.AsyncConnection.connect(**{**arguments, "connect_timeout": CONNECT_S})
        except ConnectionTimeout:
            _log.warning("postgres_hangs", silent_s=SILENCE_S + CONNECT_S)
            _hang_up(self.pgconn.socket)
        except psycopg.OperationalError:
            # It refused, so it is there: starting, ending or full. Its end would have closed our socket.
            return
        else:
            await other.close()


class _Watch:
    """Looks at the connections of one event loop now and then: a timer for every answer would cost 5 us."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._connections: WeakSet[WatchedConnection[Any]] = WeakSet()
        self._is_looking = False

    def add(self, connection: WatchedConnection[Any]) -> None:
        self._connections.add(connection)
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_later(SILENCE_S / 2, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            connection.doubt(now)
        self._is_looking = bool(self._connections)
        if self._is_looking:
            self._loop.call_later(SILENCE_S / 2, self._look)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = WeakKeyDictionary()


def _watch() -> _Watch:
    loop = asyncio.get_running_loop()
    found = _watches.get(loop)
    if found is None:
        found = _watches[loop] = _Watch(loop)
    return found


def _hang_up(descriptor: int) -> None:
    """End a connection under its reader, who sees it closed."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
