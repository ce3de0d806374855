"""Garbage collection: nothing that is named is ever lost, nothing that is not stays for ever."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from clave_common.clock import FixedClock
from clave_registry.services.collection import Collection
from registry_bench import API, Bench, register

pytestmark = pytest.mark.integration
F = "/api/2.0/mlflow-artifacts/artifacts"


def collection(bench: Bench, *, days_later: float) -> Collection:
    clock = FixedClock(datetime.now(UTC) + timedelta(days=days_later))
    return Collection(bench.database, bench.store, clock, retention_s=7 * 86_400)


async def stored(bench: Bench, data: bytes) -> bool:
    answer = await bench.call("user:eve", "HEAD", f"{API}/blobs/{hashlib.sha256(data).hexdigest()}")
    return answer.status_code == 200


async def test_only_what_nothing_names_is_collected_and_only_after_its_retention(bench: Bench) -> None:
    version = await register(bench)
    await bench.upload(b"forgotten")
    await bench.upload(b"held")
    await bench.rows(
        f"update registry.blobs set held = true where digest = '{hashlib.sha256(b'held').hexdigest()}' returning digest"
    )
    await bench.call("user:eve", "PUT", f"{F}/0/r/artifacts/x", content=b"of a run", expect=200)
    assert await collection(bench, days_later=6).collect() == 0
    assert await collection(bench, days_later=8).collect() == 1
    assert not await stored(bench, b"forgotten")
    assert await stored(bench, b"held")
    assert await stored(bench, b"of a run")
    await bench.call("user:eve", "GET", f"{API}/blobs/{version['artifacts'][0]['digest']}", expect=200)
    await bench.call("user:eve", "DELETE", f"{F}/0/r/artifacts/x", {}, expect=200)
    assert await collection(bench, days_later=8).collect() == 1


async def test_an_upload_that_races_a_collection_is_stored_or_told_to_come_again(bench: Bench) -> None:
    data = b"raced"
    await bench.upload(data)
    digest = hashlib.sha256(data).hexdigest()
    for _ in range(15):
        put = bench.call("user:eve", "PUT", f"{API}/blobs/{digest}", content=data)
        _, answer = await asyncio.gather(collection(bench, days_later=8).collect(), put)
        assert answer.status_code in {200, 503}
        known = await bench.rows(f"select 1 from registry.blobs where digest = '{digest}'")
        assert bool(known) <= await stored(bench, data)


async def test_a_row_without_bytes_is_no_upload(bench: Bench) -> None:
    version = await register(bench)
    artifact = version["artifacts"][0]
    lost = await bench.upload(b"lost after a crash")
    await bench.store.delete(lost["digest"])
    request = {"artifacts": [artifact, {"path": "x.json", **lost}], "signature": version["signature"]}
    answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions", request)
    assert (answer.status_code, answer.json()["code"]) == (422, "blobs_missing")
