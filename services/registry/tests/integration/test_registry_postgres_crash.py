"""Postgres crashes under writers and comes back: what was acknowledged is there, whole and once; the rest is refused.

A server of its own, because killing one of its processes makes Postgres end all sessions and recover from its log.
"""

import asyncio
import hashlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from clave_common.background import Background
from clave_common.migrations import migrate
from clave_registry.storage.mlflow.tables import metadata
from clave_testing import servers
from clave_testing.patience import PATIENCE_S, eventually
from registry_bench import API, Bench, onnx_model, register, released, version_request

pytestmark = pytest.mark.integration
WRITERS, CRASHES = 4, 2
_INCOMPLETE = """
select v.version from registry.versions v
where (select count(*) from registry.manifest_entries m where m.manifest_digest = v.manifest_digest) not in (1, 2)
   or (select count(*) from registry.version_events h where h.model_id = v.model_id and h.version = v.version) <> 1
   or (select count(*) from registry.outbox o where o.stream = 'clave.events.registry'
       and convert_from(o.body, 'UTF8')::jsonb ->> 'type' = 'ModelVersionRegistered'
       and (convert_from(o.body, 'UTF8')::jsonb -> 'data' ->> 'version')::int = v.version) <> 1
"""
_VICTIM = "select pid from pg_stat_activity where usename = 'clave_registry' order by xact_start nulls last limit 1"


@pytest.fixture(scope="module")
def registry_url() -> Iterator[str]:
    """A migrated database on a Postgres of this module's own that waits for its log at every commit."""
    with pytest.MonkeyPatch.context() as environment:
        root = Path(tempfile.mkdtemp(prefix="clv-"))
        root.chmod(0o755)
        environment.setenv(servers.ROOT_ENV, str(root))
        try:
            url = servers.new_database("registry")
            with psycopg.connect(servers.superuser_url(url), autocommit=True) as server:
                server.execute("alter role clave_registry set synchronous_commit = on")
            migrate(url=url, package="clave_registry", metadata=metadata)
            yield url
        finally:
            servers.stop_servers(root)


async def crashed(url: str) -> None:
    """Kill the backend whose transaction is the oldest, and wait until Postgres has recovered."""
    async with await psycopg.AsyncConnection.connect(servers.superuser_url(url), autocommit=True) as server:
        found = await (await server.execute(_VICTIM)).fetchone()
        assert found is not None
        os.kill(found[0], signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            while True:
                await server.execute("select 1")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(servers.superuser_url(url)):
                    return
            except psycopg.OperationalError:
                await asyncio.sleep(0.02)


def holds(items: list[tuple[str, int, bytes]], enough: int) -> bool:
    return len(items) >= enough


async def insisted(call: Callable[[], Any], *, seconds: float = PATIENCE_S) -> httpx.Response:
    """Repeat a call while it gets one of the two documented refusals: Postgres is away, the first call still runs."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        answer: httpx.Response = await call()
        if answer.status_code < 400 or asyncio.get_running_loop().time() > deadline:
            return answer
        assert answer.json()["code"] in {"database_unavailable", "aborted"}, answer.text
        await asyncio.sleep(0.02)


async def put(bench: Bench, data: bytes) -> httpx.Response:
    digest = hashlib.sha256(data).hexdigest()
    return await bench.call("user:ana", "PUT", f"{API}/blobs/{digest}", content=data)


async def write_until(over: asyncio.Event, bench: Bench, *, writer: int, done: list[tuple[str, int, bytes]]) -> None:
    """Upload bytes and register a version of them, again and again; keep what was acknowledged."""
    graph = {"path": "model.onnx", "digest": hashlib.sha256(onnx_model()).hexdigest(), "size": len(onnx_model())}
    turn = 0
    while not over.is_set():
        turn += 1
        key, data = f"{writer}-{turn}", f"notes of {writer} {turn}".encode()
        await insisted(partial(put, bench, data))
        notes = {"path": "notes.txt", "digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
        body, headers = version_request([graph, notes], tags={"key": key}), {"idempotency-key": key}
        answer = await insisted(
            partial(bench.call, "user:ana", "POST", f"{API}/models/churn/versions", body, headers=headers)
        )
        if answer.status_code < 400:  # a crash between a commit and its answer leaves its key taken: outcome unknown
            done.append((key, answer.json()["version"], data))


async def test_acknowledged_writes_survive_crashes_and_nothing_is_half_done(bench: Bench, registry_url: str) -> None:
    await register(bench)
    over, done = asyncio.Event(), list[tuple[str, int, bytes]]()
    writers = [asyncio.create_task(write_until(over, bench, writer=n, done=done)) for n in range(WRITERS)]
    for _ in range(CRASHES):
        seen = len(done)
        await eventually(partial(holds, done, seen + WRITERS), what="a registration of each writer")
        await crashed(registry_url)
    over.set()
    await asyncio.gather(*writers)
    numbers = [row["version"] for row in await bench.rows("select version from registry.versions order by 1")]
    assert numbers == list(range(1, len(numbers) + 1)), "numbers without gaps, none given twice"
    assert len(done) >= WRITERS * CRASHES
    for key, version, data in done:
        shown = (await bench.call("user:ana", "GET", f"{API}/models/churn/versions/{version}", expect=200)).json()
        assert (shown["tags"], len(shown["artifacts"])) == ({"key": key}, 2)
        blob = f"{API}/blobs/{hashlib.sha256(data).hexdigest()}"
        assert (await bench.call("user:ana", "GET", blob, expect=200)).content == data
    assert await bench.rows(_INCOMPLETE) == []


async def test_a_rollout_goes_on_where_it_was_when_postgres_crashes_under_its_steps(
    bench: Bench, registry_url: str
) -> None:
    await released(bench)
    steps = [{"weight": weight, "bake_s": 0, "rows_min": 1} for weight in (0.1, 0.3, 0.5)]
    plan = {"version": 2, "plan": {"steps": steps}}
    answer = await bench.call("user:eve", "POST", f"{API}/endpoints/churn/rollouts", plan, expect=201)
    rollout, crashes = f"{API}/rollouts/{answer.json()['id']}", 0
    background = Background(backoff_s_max=0.2)
    background.add("rollouts", lambda: bench.wired.controller.run(background))
    async with background, asyncio.timeout(PATIENCE_S):
        while True:
            shown = (await insisted(partial(bench.call, "user:vic", "GET", rollout))).json()
            if shown["state"] == "promoted":
                break
            if len(shown["events"]) > 1 and not crashes:
                crashes += 1
                await crashed(registry_url)
            await asyncio.sleep(0.02)
    events = [(event["state"], event["step"]) for event in shown["events"]]
    assert events == [("canary", 0), ("canary", 1), ("canary", 2), ("promoted", None)]
    assert crashes == 1, "Postgres crashed between two steps"
    history = (await bench.call("user:vic", "GET", f"{API}/endpoints/churn/history", expect=200)).json()
    assert [entry["version"] for entry in history["entries"]] == [2, 1]
