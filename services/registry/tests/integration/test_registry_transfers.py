"""Large files: uploads in parts that can be resumed, and what is refused on the way."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from registry_bench import API, Bench

pytestmark = pytest.mark.integration
T = "/api/2.0/mlflow-artifacts"
ROOT = "0/run/artifacts"


async def begun(bench: Bench, *, parts: int, name: str = "big.bin") -> dict[str, Any]:
    body = {"path": f"C:\\\\tmp\\\\{name}", "num_parts": parts}
    answer = await bench.call("user:eve", "POST", f"{T}/mpu/create/{ROOT}", body, expect=200)
    assert answer.headers["cache-control"] == "no-store"
    started: dict[str, Any] = answer.json()
    return started


async def send(bench: Bench, credential: dict[str, Any], data: Any) -> httpx.Response:
    return await bench.client.put(credential["url"], content=data, headers=credential["headers"])


async def test_a_file_in_parts_becomes_one_artifact_and_its_parts_go(bench: Bench) -> None:
    upload = await begun(bench, parts=3)
    parts = [b"a" * 100_000, b"b" * 100_000, b"end"]
    for credential, data in reversed(list(zip(upload["credentials"], parts, strict=True))):
        assert (await send(bench, credential, data)).headers["etag"]
    done = {"path": "big.bin", "upload_id": upload["upload_id"], "parts": []}
    for _ in range(2):
        await bench.call("user:eve", "POST", f"{T}/mpu/complete/{ROOT}", done, expect=200)
    found = await bench.call("user:eve", "GET", f"{T}/artifacts/{ROOT}/big.bin", expect=200)
    assert found.content == b"".join(parts)
    assert await bench.store.parts(upload["upload_id"]) == {}


async def test_parts_need_the_credential_and_a_finished_or_foreign_upload_takes_none(bench: Bench) -> None:
    upload = await begun(bench, parts=1)
    url = upload["credentials"][0]["url"]
    assert (await bench.client.put(url, content=b"x")).status_code == 401
    refused = await bench.client.put(url, content=b"x", headers={"authorization": "Bearer user:vic"})
    assert refused.json()["error_code"] == "PERMISSION_DENIED"
    beyond = await bench.call("user:eve", "PUT", url.replace("/1", "/2") if url.endswith("/1") else url, content=b"x")
    assert beyond.status_code == 400
    done = {"path": "big.bin", "upload_id": upload["upload_id"]}
    missing = await bench.call("user:eve", "POST", f"{T}/mpu/complete/{ROOT}", done, expect=400)
    assert "parts first: 1" in missing.json()["message"]
    elsewhere = await bench.call("user:eve", "POST", f"{T}/mpu/complete/0/other", done, expect=400)
    assert "another file" in elsewhere.json()["message"]
    await bench.call("user:eve", "POST", f"{T}/mpu/abort/{ROOT}", done, expect=200)
    gone = await bench.call("user:eve", "POST", f"{T}/mpu/complete/{ROOT}", done, expect=404)
    assert gone.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.parametrize("target", ["0/%252e%252e", "versions/mdl_1/1"])
async def test_an_upload_to_a_place_that_is_closed_does_not_begin(bench: Bench, target: str) -> None:
    await bench.call("user:eve", "POST", f"{T}/mpu/create/{target}", {"path": "x", "num_parts": 1}, expect=400)


async def test_without_an_object_store_there_is_no_presigned_download(bench: Bench) -> None:
    await bench.call("user:eve", "PUT", f"{T}/artifacts/{ROOT}/x", content=b"x", expect=200)
    refused = await bench.call("user:eve", "GET", f"{T}/presigned/{ROOT}/x", expect=501)
    assert refused.json()["error_code"] == "NOT_IMPLEMENTED"
    await bench.call("user:eve", "GET", f"{T}/presigned/{ROOT}/none", expect=404)


async def test_an_upload_is_resumed_where_it_was_cut_and_verified_as_a_whole(bench: Bench) -> None:
    data = [b"first " * 1000, b"second"]
    digest = hashlib.sha256(b"".join(data)).hexdigest()
    wanted = {"digest": digest, "parts": 2}
    upload = (await bench.call("user:ana", "POST", f"{API}/uploads", wanted, expect=201)).json()

    class Cut(Exception):
        pass

    async def cut() -> AsyncIterator[bytes]:
        yield b"sec"
        raise Cut

    path = f"{API}/uploads/{upload['id']}"
    await bench.call("user:ana", "PUT", f"{path}/parts/1", content=data[0], expect=200)
    with pytest.raises(Cut):
        await bench.call("user:ana", "PUT", f"{path}/parts/2", content=cut())
    again = (await bench.call("user:ana", "POST", f"{API}/uploads", wanted, expect=201)).json()
    assert (again["id"], again["there"]) == (upload["id"], [{"number": 1, "size": 6000}])
    early = await bench.call("user:ana", "POST", f"{path}/finish", {})
    assert (early.status_code, early.json()["code"]) == (422, "parts_missing")
    await bench.call("user:ana", "PUT", f"{path}/parts/2", content=b"altered", expect=200)
    wrong = await bench.call("user:ana", "POST", f"{path}/finish", {})
    assert wrong.json()["code"] == "digest_mismatch"
    await bench.call("user:ana", "PUT", f"{path}/parts/2", content=data[1], expect=200)
    for _ in range(2):
        assert (await bench.call("user:ana", "POST", f"{path}/finish", {}, expect=200)).json()["digest"] == digest
    assert (await bench.call("user:ana", "GET", f"{API}/blobs/{digest}", expect=200)).content == b"".join(data)
    assert (await bench.call("user:bob", "GET", path)).status_code in {200, 403}
    await bench.call("user:ana", "DELETE", path, expect=204)
