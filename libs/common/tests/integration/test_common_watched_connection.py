"""A Postgres that hangs is given up in seconds; one that is merely busy is waited for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg
import pytest
from clave_common import watched_connection
from clave_common.watched_connection import WatchedConnection
from clave_testing.patience import PATIENCE_S
from psycopg.conninfo import conninfo_to_dict

pytestmark = pytest.mark.integration


class Between:
    """A relay in front of Postgres's socket that can stop passing anything on, as a stopped server does."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.passing = asyncio.Event()
        self.passing.set()
        self.tasks: list[asyncio.Task[None]] = []

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self.socket)
        self.tasks += [
            asyncio.create_task(self.pass_on(reader, far_writer)),
            asyncio.create_task(self.pass_on(far_reader, writer)),
        ]

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.passing.wait()
            writer.write(data)
        writer.close()


@pytest.fixture
async def between(service_database: Callable[[str], str], tmp_path: Path) -> AsyncIterator[tuple[Between, str]]:
    url = service_database("registry")
    facts = conninfo_to_dict(url)
    relay = Between(f"{facts['host']}/.s.PGSQL.5432")
    server = await asyncio.start_unix_server(relay.meet, tmp_path / ".s.PGSQL.5432")
    yield relay, psycopg.conninfo.make_conninfo(url, host=str(tmp_path))
    server.close()
    for task in relay.tasks:
        task.cancel()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_connection, "SILENCE_S", 0.1)


async def test_a_busy_server_is_waited_for(between: tuple[Between, str]) -> None:
    async with await WatchedConnection.connect(between[1]) as connection:
        cursor = await connection.execute("select pg_sleep(0.6), 7")
        assert (await cursor.fetchone() or ())[1] == 7


async def test_a_server_that_hangs_is_given_up(between: tuple[Between, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_connection, "CONNECT_S", 2)  # the least that psycopg knows
    relay, url = between
    connection = await WatchedConnection.connect(url, autocommit=True)
    relay.passing.clear()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("select 1")
    assert connection.closed
