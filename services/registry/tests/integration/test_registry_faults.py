"""Postgres dies in the middle of a registration: one clear refusal, nothing half-written, no number lost."""

import asyncio
import hashlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from clave_registry.storage import models
from clave_testing.servers import superuser_url
from registry_bench import API, Bench, onnx_model, register, version_request

pytestmark = pytest.mark.integration
F = "/api/2.0/mlflow-artifacts/artifacts"
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


async def test_a_full_disk_is_a_refusal_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
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
    assert files_below(tmp_path / "blobs") == []
    await bench.call("user:ana", "PUT", blob, content=data, expect=200)


async def test_an_upload_that_is_cut_leaves_no_file_and_no_row(bench: Bench, tmp_path: Path) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"y" * 200_000
        raise SenderGone

    with pytest.raises(SenderGone):
        await bench.call("user:eve", "PUT", f"{F}/0/r/artifacts/x", content=cut())
    assert files_below(tmp_path / "blobs") == []
    assert await bench.rows("select 1 from registry.artifacts union all select 1 from registry.blobs") == []


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class SenderGone(Exception):
    """The connection ended in the middle of the body."""
