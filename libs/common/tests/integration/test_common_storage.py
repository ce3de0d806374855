import asyncio
import contextlib
import hashlib
import json

import psycopg
import pytest
from clave_common.audit_signatures import AuditSigner, AuditVerifier
from clave_common.background import Background
from clave_common.blobstore import BlobRef, DigestMismatch, bytes_of, open_blob_store, read_all
from clave_common.database import Database
from clave_common.errors import Aborted, InvalidArgument, NotFound, PayloadTooLarge, Unavailable
from clave_common.idempotency import answer_once
from clave_common.outbox import OutboxRelay
from clave_common.redis_client import connect_redis
from clave_common.statements import TELLING, told
from clave_common.streams import StreamConsumer
from clave_contracts.events import AuditEntry, Event
from clave_testing.bare_databases import bare_database
from clave_testing.patience import PATIENCE_S
from clave_testing.servers import superuser_url
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response

pytestmark = pytest.mark.integration


@pytest.fixture
async def database(service_database):
    async with bare_database(service_database("registry"), Database) as opened:
        yield opened


def event(**data):
    return Event(type="RunStarted", source="registry", subject="models/churn", data=data)


async def test_an_event_leaves_only_with_its_transaction(database, redis_url):
    redis = connect_redis(redis_url)
    key = Ed25519PrivateKey.generate()
    relay = OutboxRelay(database, redis, AuditSigner("registry", key))
    with pytest.raises(RuntimeError, match="operation failed"):
        async with database.transaction() as tx:
            await tx.emit(event(n=1))
            raise RuntimeError("operation failed")
    assert await relay.relay_once() == 0
    async with database.transaction() as tx:
        await tx.emit(event(n=2))
        await tx.audit(AuditEntry(service="registry", actor="user:a", action="registry:model.create", resource="m"))
    assert await relay.relay_once() == 2
    assert await relay.relay_once() == 0
    assert (await redis.xlen("clave.events.registry"), await redis.xlen("clave.audit.registry")) == (1, 1)
    ((_, fields),) = await redis.xrange("clave.audit.registry")
    assert AuditVerifier({"registry": [key.public_key()]}).checked(fields[b"body"]).fields["actor"] == "user:a"
    await redis.aclose()


async def test_a_single_statement_tells_with_what_it_changed_or_not_at_all(database):
    statement = (
        "with changed as (insert into consumed_events (consumer, event_id) values ('c', %(id)s) "
        "on conflict do nothing returning 1) insert into outbox (stream, id, body) "
        f"select told.stream, told.id, convert_to(told.body, 'UTF8') from changed, {TELLING} returning stream"
    )
    entry = AuditEntry(service="registry", actor="user:a", action="registry:model.create", resource="m")
    said = told("registry", [entry, event(n=1)])
    rows = await database.run(statement, {"id": "evt_1", **said}, tells=True)
    assert [row["stream"] for row in rows] == ["clave.audit", "clave.events.registry"]
    assert database.outbox_filled.is_set()
    assert await database.run(statement, {"id": "evt_1", **said}) == []
    with pytest.raises(InvalidArgument):
        await database.run(statement, {"id": "\0", **said})


async def test_what_is_asked_often_is_still_planned_for_its_values(database):
    async with database.transaction() as tx:
        assert await tx.session.scalar(text("show plan_cache_mode")) == "force_custom_plan"


async def test_connections_that_the_server_closed_at_rest_are_replaced_unseen(database):
    await database.run("select 1", {})
    async with database.transaction() as tx:
        await tx.first_time("c", "evt_1")
    url = database.engine.url.render_as_string(hide_password=False)
    with psycopg.connect(superuser_url(url), autocommit=True) as server:
        server.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
    await database.ping()
    async with database.transaction() as tx:
        assert await tx.first_time("c", "evt_2")


async def test_a_consumer_gets_each_event_and_what_a_dead_one_left(database, redis_url):
    redis = connect_redis(redis_url)
    relay = OutboxRelay(database, redis, None)
    async with database.transaction() as tx:
        for number in range(5):
            await tx.emit(event(n=number))
    await relay.relay_once()
    stream = "clave.events.registry"
    dead = StreamConsumer(redis, streams=[stream], group="g", consumer="dead")
    await dead.ensure_groups()
    await redis.xreadgroup("g", "dead", {stream: ">"}, count=2)
    seen: list[int] = []
    done = asyncio.Event()

    async def handle(entries):
        seen.extend(json.loads(entry.body)["data"]["n"] for entry in entries)
        if len(seen) >= 5:
            done.set()

    alive = StreamConsumer(redis, streams=[stream], group="g", consumer="b", block_ms=50, claim_after_ms=0)
    task = asyncio.create_task(alive.run(handle, Background(), "events"))
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE_S)
    assert task.cancelled()
    assert sorted(seen) == [0, 1, 2, 3, 4]
    await redis.aclose()


async def test_a_consumer_ends_although_its_handler_swallowed_the_cancellation(redis_url):
    redis = connect_redis(redis_url)
    await redis.xadd("clave.events.registry", {"id": "evt_1", "body": "{}"})
    began, asked_to_end = asyncio.Event(), asyncio.Event()

    async def stubborn(_entries):
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asked_to_end.wait()

    consumer = StreamConsumer(redis, streams=["clave.events.registry"], group="g", consumer="c", block_ms=50)
    task = asyncio.create_task(consumer.run(stubborn, Background(), "events"))
    await asyncio.wait_for(began.wait(), 5)
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE_S)
    assert task.cancelled()
    await redis.aclose()


async def test_an_event_is_handled_once(database):
    for expected in (True, False):
        async with database.transaction() as tx:
            assert await tx.first_time("monitor", "evt_1") is expected


async def test_a_dead_database_is_unavailable(database):
    away = Database("postgresql://nobody@/none?host=/nonexistent", database.metadata, service="registry")
    with pytest.raises(Unavailable):
        await away.ping()


def posted(body: bytes, key: str | None) -> Request:
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"idempotency-key", key.encode())] if key else []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/models",
        "headers": headers,
        "query_string": b"",
        "server": ("t", 80),
        "scheme": "http",
    }
    return Request(scope, receive)


async def test_the_same_key_gives_the_same_answer_and_another_body_is_refused(database):
    calls = []

    async def create():
        calls.append(1)
        return Response(b'{"id":1}', status_code=201)

    first = await answer_once(database, posted(b"{}", "k"), principal="user:a", answer=create)
    again = await answer_once(database, posted(b"{}", "k"), principal="user:a", answer=create)
    assert (first.status_code, again.status_code, again.body, len(calls)) == (201, 201, b'{"id":1}', 1)
    with pytest.raises(InvalidArgument):
        await answer_once(database, posted(b"[]", "k"), principal="user:a", answer=create)
    await answer_once(database, posted(b"{}", "k"), principal="user:b", answer=create)
    assert len(calls) == 2


async def test_a_failed_call_frees_its_key_and_a_running_one_holds_it(database):
    async def fail():
        with pytest.raises(Aborted):
            await answer_once(database, posted(b"{}", "k2"), principal="user:a", answer=fail)
        raise NotFound("gone")

    with pytest.raises(NotFound):
        await answer_once(database, posted(b"{}", "k2"), principal="user:a", answer=fail)

    async def succeed():
        return Response(b"{}")

    assert (await answer_once(database, posted(b"{}", "k2"), principal="user:a", answer=succeed)).status_code == 200


async def test_blobs_are_named_by_their_bytes_and_refuse_others(tmp_path):
    store = open_blob_store(f"file://{tmp_path}/blobs")
    data = b"x" * 3_000_000
    digest = hashlib.sha256(data).hexdigest()
    assert await store.put(bytes_of(data), digest=digest) == BlobRef(digest, len(data))
    assert await store.put(bytes_of(data)) == BlobRef(digest, len(data))
    assert await read_all(store, digest) == data
    part = b"".join([chunk async for chunk in store.read(digest, start=10, end=25)])
    assert part == data[10:25]
    with pytest.raises(DigestMismatch):
        await store.put(bytes_of(b"other"), digest=digest)
    with pytest.raises(PayloadTooLarge):
        await store.put(bytes_of(data), size_max=10)
    with pytest.raises(InvalidArgument):
        await store.size("../../etc/passwd")
    with pytest.raises(NotFound):
        await read_all(store, "0" * 64)
    assert not list((tmp_path / "blobs" / "partial").iterdir())


async def test_a_read_only_store_is_unavailable_and_leaves_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(Unavailable):
        await open_blob_store(f"file://{blocked}").put(bytes_of(b"x"))
