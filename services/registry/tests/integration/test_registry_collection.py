"""Garbage collection: nothing that is named is ever lost, nothing that is not stays for ever."""

import asyncio
import hashlib
import sys
from pathlib import Path

import pytest
from registry_bench import API, Bench, collected, collection, register

pytestmark = pytest.mark.integration
M = "/api/2.0/mlflow"
SIGNATURE_OF_FOUR = {
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}],
    "columns": ["a", "b", "c", "d"],
    "positive_output": "score:0",
}
F = "/api/2.0/mlflow-artifacts/artifacts"


async def stored(bench: Bench, data: bytes) -> bool:
    answer = await bench.call("user:eve", "HEAD", f"{API}/blobs/{hashlib.sha256(data).hexdigest()}")
    return answer.status_code == 200


async def test_only_what_nothing_names_is_collected_and_only_after_its_retention(bench: Bench) -> None:
    version = await register(bench)
    await bench.upload(b"forgotten")
    await bench.upload(b"held")
    held = hashlib.sha256(b"held").hexdigest()
    await bench.call("user:col", "PUT", f"{API}/blobs/{held}/hold", {"reason": "case 7"}, expect=204)
    await bench.call("user:eve", "PUT", f"{F}/0/r/artifacts/x", content=b"of a run", expect=200)
    assert await collected(bench, days_later=6) == 0
    assert await collected(bench, days_later=8) == 1
    assert not await stored(bench, b"forgotten")
    assert await stored(bench, b"held")
    assert await stored(bench, b"of a run")
    await bench.call("user:eve", "GET", f"{API}/blobs/{version['artifacts'][0]['digest']}", expect=200)
    await bench.call("user:eve", "DELETE", f"{F}/0/r/artifacts/x", {}, expect=200)
    assert await collected(bench, days_later=8) == 1
    await bench.call("user:col", "POST", f"{API}/blobs/{held}/hold/lift", {"reason": "closed"}, expect=204)
    assert await collected(bench, days_later=8) == 1
    listed = (await bench.call("user:col", "GET", f"{API}/holds", expect=200)).json()["holds"]
    assert [(hold["reason"], hold["lift_reason"]) for hold in listed] == [("case 7", "closed")]


async def test_an_upload_that_races_a_collection_is_stored_or_told_to_come_again(bench: Bench) -> None:
    data = b"raced"
    await bench.upload(data)
    digest = hashlib.sha256(data).hexdigest()
    for _ in range(15):
        put = bench.call("user:eve", "PUT", f"{API}/blobs/{digest}", content=data)
        _, answer = await asyncio.gather(collected(bench, days_later=8), put)
        assert answer.status_code in {200, 503}
        known = await bench.rows(f"select 1 from registry.blobs where digest = '{digest}'")
        assert bool(known) <= await stored_digest(bench, digest)


async def test_a_row_without_bytes_is_no_upload(bench: Bench) -> None:
    version = await register(bench)
    artifact = version["artifacts"][0]
    lost = await bench.upload(b"lost after a crash")
    await bench.store.delete(lost["digest"])
    request = {"artifacts": [artifact, {"path": "x.json", **lost}], "signature": version["signature"]}
    answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions", request)
    assert (answer.status_code, answer.json()["code"]) == (422, "blobs_missing")


async def test_files_of_a_deleted_version_go_after_their_retention_and_never_under_hold(bench: Bench) -> None:
    await register(bench)
    held = await register(bench, columns=4, signature=SIGNATURE_OF_FOUR)
    hold = f"{API}/models/churn/versions/2/hold"
    await bench.call("user:eve", "PUT", hold, {"reason": "case 8"}, expect=403)
    await bench.call("user:col", "PUT", hold, {"reason": "case 8"}, expect=204)
    await bench.call("user:col", "PUT", hold, {"reason": "again"}, expect=409)
    gone = await bench.call("user:admin", "DELETE", f"{API}/models/churn")
    assert gone.json()["code"] == "under_hold"
    for version, status in ((1, 200), (2, 409)):
        body = {"name": "churn", "version": str(version)}
        await bench.call("user:eve", "DELETE", f"{M}/model-versions/delete", body, expect=status)
    assert await collection(bench, days_later=29).forget_manifests() == 0
    assert await collection(bench, days_later=31).forget_manifests() == 1
    assert await collected(bench, days_later=31) == 1
    assert (await bench.rows("select count(*) as n from registry.blobs"))[0]["n"] == 1
    await bench.call("user:eve", "HEAD", f"{API}/blobs/{held['artifacts'][0]['digest']}", expect=200)
    await bench.call("user:col", "POST", f"{hold}/lift", {"reason": "closed"}, expect=204)
    await bench.call("user:col", "POST", f"{hold}/lift", {"reason": "closed"}, expect=404)
    await bench.call("user:admin", "DELETE", f"{API}/models/churn", expect=204)


async def test_a_collection_killed_in_the_middle_loses_nothing_that_is_named(bench: Bench) -> None:
    version = await register(bench)
    for number in range(6):
        await bench.upload(f"forgotten {number}".encode())
    url = bench.database.engine.url.render_as_string(hide_password=False)
    command = [
        sys.executable,
        str(Path(__file__).with_name("registry_killed_collection.py")),
        url,
        str(bench.blob_folder),
    ]
    killed = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert killed.stdout is not None
    assert await asyncio.wait_for(killed.stdout.readline(), 30) == b"in the middle\n"
    killed.kill()
    await killed.wait()
    rows = {row["digest"] for row in await bench.rows("select digest from registry.blobs")}
    assert len(rows) == 7, "the transaction that was cut left every row"
    assert await stored_digest(bench, version["artifacts"][0]["digest"])
    again = await bench.upload(b"forgotten 0")
    assert await stored_digest(bench, again["digest"])
    assert await collected(bench, days_later=8) == 6
    assert await stored_digest(bench, version["artifacts"][0]["digest"])


async def stored_digest(bench: Bench, digest: str) -> bool:
    return await bench.store.size(digest) is not None
