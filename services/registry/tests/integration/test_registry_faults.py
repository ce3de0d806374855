"""Postgres dies in the middle of a registration: one clear refusal, nothing half-written, no number lost."""

import asyncio

import psycopg
import pytest
from clave_registry.storage import models
from clave_testing.servers import superuser_url
from registry_bench import API, Bench, onnx_model, register, version_request

pytestmark = pytest.mark.integration
_WAITING = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


async def until_one_waits(url: str) -> int:
    deadline = asyncio.get_running_loop().time() + 15
    async with await psycopg.AsyncConnection.connect(superuser_url(url), autocommit=True) as server:
        while asyncio.get_running_loop().time() < deadline:
            found = await (await server.execute(_WAITING)).fetchone()
            if found is not None:
                await server.execute("select pg_terminate_backend(%s)", (found[0],))
                return int(found[0])
            await asyncio.sleep(0.02)
    raise AssertionError("no registration waited for the lock")


async def test_a_connection_that_dies_mid_registration_leaves_no_trace(bench: Bench, registry_url: str) -> None:
    await register(bench)
    artifact = {"path": "model.onnx", **await bench.upload(onnx_model())}
    path, request = f"{API}/models/churn/versions", version_request([artifact])
    async with bench.database.transaction() as holder:
        await models.by_name(holder, "default", "churn", lock=True)
        creating = asyncio.create_task(bench.call("user:ana", "POST", path, request))
        await until_one_waits(registry_url)
        answer = await creating
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    listed = (await bench.call("user:ana", "GET", path, expect=200)).json()["versions"]
    assert [version["version"] for version in listed] == [1]
    again = await bench.call("user:ana", "POST", path, request, expect=201)
    assert again.json()["version"] == 2
