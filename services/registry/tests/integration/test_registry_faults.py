"""A connection, a disk or a sender dies in the middle: one clear refusal, nothing half-written, no number lost."""

import asyncio
import hashlib
import resource
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from clave_common.errors import Unavailable
from clave_registry.storage import blobs, endpoints, models
from clave_testing.patience import PATIENCE_S
from clave_testing.servers import superuser_url
from registry_bench import API, Bench, onnx_model, register, released, version_request

pytestmark = pytest.mark.integration
F = "/api/2.0/mlflow-artifacts/artifacts"
_WAITING = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


async def until_one_waits(url: str) -> int:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
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


async def test_a_connection_that_dies_while_an_upload_is_recorded_leaves_no_row(
    bench: Bench, registry_url: str
) -> None:
    data = b"uploaded twice"
    digest = hashlib.sha256(data).hexdigest()
    async with bench.database.transaction() as holder:
        await blobs.note(holder, "default", digest, len(data), at=datetime.now(UTC))
        putting = asyncio.create_task(bench.call("user:ana", "PUT", f"{API}/blobs/{digest}", content=data))
        await until_one_waits(registry_url)
        answer = await putting
        await holder.session.rollback()
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert await bench.rows("select 1 from registry.blobs") == []
    assert await bench.rows("select 1 from registry.outbox") == []
    await bench.call("user:ana", "PUT", f"{API}/blobs/{digest}", content=data, expect=200)
    assert (await bench.call("user:ana", "GET", f"{API}/blobs/{digest}", expect=200)).content == data


async def test_a_connection_that_dies_under_a_rollouts_step_takes_no_step_and_the_next_try_takes_it_once(
    bench: Bench, registry_url: str
) -> None:
    await released(bench)
    plan = {"version": 2, "plan": {"steps": [{"weight": 0.5, "bake_s": 0, "rows_min": 1}]}}
    path = f"{API}/endpoints/churn/rollouts"
    async with bench.database.transaction() as holder:
        await endpoints.find(holder, "churn", lock=True)
        starting = asyncio.create_task(bench.call("user:eve", "POST", path, plan))
        await until_one_waits(registry_url)
        refused = await starting
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert (await bench.call("user:vic", "GET", path, expect=200)).json()["rollouts"] == []
    rollout_id = (await bench.call("user:eve", "POST", path, plan, expect=201)).json()["id"]
    async with bench.database.transaction() as holder:
        await endpoints.find(holder, "churn", lock=True)
        stepping = asyncio.create_task(bench.wired.operations.rollouts.advance(rollout_id))
        await until_one_waits(registry_url)
        with pytest.raises(Unavailable):
            await stepping
    shown = (await bench.call("user:vic", "GET", f"{API}/rollouts/{rollout_id}", expect=200)).json()
    assert [(event["state"], event["step"]) for event in shown["events"]] == [("canary", 0)]
    assert (await bench.call("user:vic", "GET", f"{API}/endpoints/churn", expect=200)).json()["live_version"] == 1
    await bench.wired.operations.rollouts.advance(rollout_id)
    shown = (await bench.call("user:vic", "GET", f"{API}/rollouts/{rollout_id}", expect=200)).json()
    assert [event["state"] for event in shown["events"]] == ["canary", "promoted"]


async def test_a_full_disk_is_a_refusal_and_leaves_nothing(bench: Bench) -> None:
    data = b"x" * 300_000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        blob = f"{API}/blobs/{hashlib.sha256(data).hexdigest()}"
        full = await bench.call("user:ana", "PUT", blob, content=data)
        artifact = await bench.call("user:eve", "PUT", f"{F}/0/r/artifacts/x", content=data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (full.status_code, full.json()["code"]) == (503, "blob_store_unwritable")
    assert (artifact.status_code, artifact.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert files_below(bench.blob_folder) == []
    await bench.call("user:ana", "PUT", blob, content=data, expect=200)


async def test_an_upload_that_is_cut_leaves_no_file_and_no_row(bench: Bench) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"y" * 200_000
        raise SenderGone

    with pytest.raises(SenderGone):
        await bench.call("user:eve", "PUT", f"{F}/0/r/artifacts/x", content=cut())
    assert files_below(bench.blob_folder) == []
    assert await bench.rows("select 1 from registry.artifacts union all select 1 from registry.blobs") == []


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class SenderGone(Exception):
    """The connection ended in the middle of the body."""
