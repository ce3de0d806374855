"""A key whose call met a database that went away: freed or answered once it is back, never repeated blindly."""

import asyncio
import hashlib
from contextlib import asynccontextmanager

import pytest
from clave_common.database import Database, database_unavailable
from clave_common.errors import Unavailable
from clave_common.idempotency import RUNNING_S_MAX, OutcomeUnknown, answer_once
from clave_testing.bare_databases import bare_database
from clave_testing.patience import PATIENCE_S
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response

pytestmark = pytest.mark.integration


class Fickle(Database):
    """A database that is away for the next few transactions."""

    away = 0

    @asynccontextmanager
    async def transaction(self):
        if self.away:
            self.away -= 1
            raise database_unavailable()
        async with super().transaction() as tx:
            yield tx


@pytest.fixture
async def database(service_database):
    async with bare_database(service_database("registry"), Fickle) as opened:
        yield opened


def posted(key):
    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    headers = [(b"idempotency-key", key.encode())]
    scope = {"type": "http", "method": "POST", "path": "/models", "headers": headers, "query_string": b""}
    return Request({**scope, "server": ("t", 80), "scheme": "http"}, receive)


async def statuses(database):
    async with Database.transaction(database) as tx:
        return list((await tx.session.execute(text("select status from registry.idempotency_keys"))).scalars())


async def until_stored(database, expected):
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while (found := await statuses(database)) != expected:
        assert asyncio.get_running_loop().time() < deadline, found
        await asyncio.sleep(0.02)


async def test_the_answer_of_a_call_is_given_and_kept_when_the_database_is_back(database):
    async def create():
        database.away = 2
        return Response(b'{"id":1}', status_code=201)

    first = await answer_once(database, posted("k"), principal="user:a", answer=create)
    await until_stored(database, [201])
    again = await answer_once(database, posted("k"), principal="user:a", answer=create)
    assert (first.status_code, again.status_code, again.body) == (201, 201, b'{"id":1}')


async def test_a_call_that_met_no_database_frees_its_key_when_it_is_back(database):
    async def fail():
        database.away = 2
        raise database_unavailable()

    async def create():
        return Response(b"{}", status_code=201)

    with pytest.raises(Unavailable):
        await answer_once(database, posted("k"), principal="user:a", answer=fail)
    await until_stored(database, [])
    assert (await answer_once(database, posted("k"), principal="user:a", answer=create)).status_code == 201


async def test_a_call_whose_process_died_is_not_repeated_but_asked_to_be_looked_at(database):
    async def create():
        raise AssertionError("the call was repeated")

    async with database.transaction() as tx:
        await tx.session.execute(
            text(
                "insert into registry.idempotency_keys (key, fingerprint, created_at) "
                "values ('user:a:POST:/models:k', :f, now() - make_interval(secs => :s))"
            ),
            {"f": hashlib.sha256(b"{}").hexdigest(), "s": RUNNING_S_MAX + 1},
        )
    with pytest.raises(OutcomeUnknown, match="Look whether it was done"):
        await answer_once(database, posted("k"), principal="user:a", answer=create)
