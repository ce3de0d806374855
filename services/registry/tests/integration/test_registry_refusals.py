"""What the registry does not take: each refusal names its cause, and nothing is half-written."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from registry_bench import API, Bench, onnx_model, register, version_request

pytestmark = pytest.mark.integration


async def test_bytes_that_hash_to_something_else_are_not_stored(bench: Bench) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    answer = await bench.call("user:ana", "PUT", f"{API}/blobs/{digest}", content=b"wrong")
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")
    await bench.call("user:ana", "HEAD", f"{API}/blobs/{digest}", expect=404)
    assert (await bench.call("user:ana", "PUT", f"{API}/blobs/ABC", content=b"x")).status_code == 422


async def test_blobs_are_served_whole_and_in_ranges(bench: Bench) -> None:
    data = bytes(range(256)) * 10
    digest = (await bench.upload(data))["digest"]
    path = f"{API}/blobs/{digest}"
    assert (await bench.call("user:ana", "GET", path, expect=200)).content == data
    part = await bench.call("user:ana", "GET", path, headers={"range": "bytes=10-19"}, expect=206)
    assert (part.content, part.headers["content-range"]) == (data[10:20], f"bytes 10-19/{len(data)}")
    tail = await bench.call("user:ana", "GET", path, headers={"range": "bytes=-5"}, expect=206)
    assert tail.content == data[-5:]
    await bench.call("user:ana", "GET", path, headers={"range": "bytes=99999-"}, expect=422)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/%2e%2e/b", "a%252f..%252fb", "c:\\x", "a\x00b", "a#b"])
async def test_artifact_paths_that_leave_the_version_are_refused(bench: Bench, path: str) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    artifact = {"path": path, **await bench.upload(b"data")}
    answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions", version_request([artifact]))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_artifact_path")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"not a model", "unsafe_model"),
        (onnx_model(domain="com.evil"), "unsafe_model"),
        (onnx_model(columns=4), "signature_mismatch"),
    ],
)
async def test_models_that_cannot_be_served_are_refused(bench: Bench, data: bytes, code: str) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    artifact = {"path": "model.onnx", **await bench.upload(data)}
    answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions", version_request([artifact]))
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    listed = (await bench.call("user:ana", "GET", f"{API}/models/churn/versions", expect=200)).json()
    assert listed["versions"] == []


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["tenure", "contract", "monthly_charges"], "another order: column 2 is 'contract', not 'monthly_charges'"),
        (["tenure", "monthly_charges", "contract", "age"], "4 features, and 3 columns are named"),
    ],
)
async def test_a_booster_of_other_columns_than_declared_is_refused(bench: Bench, names: list[str], told: str) -> None:
    rows = np.random.default_rng(1).random((40, len(names)))
    matrix = xgboost.DMatrix(rows, label=rows[:, 0] > 0.5, feature_names=names)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, matrix, 2)
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    artifacts = [
        {"path": "model.onnx", **await bench.upload(onnx_model())},
        {"path": "model.ubj", **await bench.upload(bytes(booster.save_raw("ubj")))},
    ]
    answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions", version_request(artifacts))
    assert (answer.status_code, answer.json()["code"]) == (422, "signature_mismatch"), answer.text
    assert told in answer.json()["detail"]
    listed = (await bench.call("user:ana", "GET", f"{API}/models/churn/versions", expect=200)).json()
    assert listed["versions"] == []


async def test_a_version_of_bytes_never_uploaded_is_refused(bench: Bench) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    artifact = {"path": "model.onnx", "digest": "b" * 64, "size": 3}
    answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions", version_request([artifact]))
    assert (answer.status_code, answer.json()["code"]) == (422, "blobs_missing")


async def test_pickles_can_be_kept_and_never_deployed(bench: Bench) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    artifacts: list[dict[str, Any]] = [
        {"path": "model.onnx", **await bench.upload(onnx_model())},
        {"path": "extra/model.pkl", **await bench.upload(b"\x80\x04.")},
    ]
    await bench.call("user:ana", "POST", f"{API}/models/churn/versions", version_request(artifacts), expect=201)
    await bench.call("user:ana", "POST", f"{API}/models/churn/versions/1/submit", {}, expect=200)
    answer = await bench.call("user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": 1})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_deployable")
    await bench.call("user:eve", "GET", f"{API}/endpoints/churn", expect=404)


async def test_an_archive_with_links_out_of_it_is_kept_as_bytes_and_never_unpacked(
    bench: Bench,
) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, target in (("passwd", "/etc/passwd"), ("up", "../../../secrets")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        archive.addfile(tarfile.TarInfo("../../escaped"))
    artifacts = [
        {"path": "model.onnx", **await bench.upload(onnx_model())},
        {"path": "code/source.tar.gz", **await bench.upload(content.getvalue())},
    ]
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    await bench.call("user:ana", "POST", f"{API}/models/churn/versions", version_request(artifacts), expect=201)
    blob = await bench.call("user:ana", "GET", f"{API}/blobs/{artifacts[1]['digest']}", expect=200)
    assert blob.content == content.getvalue()
    assert links_below(bench.blob_folder) == []


def links_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or path.name in {"passwd", "escaped", "up"}]


async def test_names_are_taken_once_and_free_after_deletion(bench: Bench) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    taken = await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"})
    assert (taken.status_code, taken.json()["code"]) == (409, "already_exists")
    await bench.call("user:ana", "DELETE", f"{API}/models/churn", expect=403)
    await bench.call("user:admin", "DELETE", f"{API}/models/churn", expect=204)
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    unknown = await bench.call("user:ana", "POST", f"{API}/models", {"name": "x", "surprise": 1})
    assert unknown.status_code == 422


async def test_nobody_gets_in_without_a_credential_and_viewers_change_nothing(bench: Bench) -> None:
    assert (await bench.client.get(f"{API}/models")).status_code == 401
    refused = await bench.call("user:vic", "POST", f"{API}/models", {"name": "churn"})
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")


async def test_a_live_version_is_neither_archived_nor_deleted(bench: Bench) -> None:
    await register(bench)
    await bench.call("user:ana", "POST", f"{API}/models/churn/versions/1/submit", {}, expect=200)
    await bench.call(
        "user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": 1}, expect=201
    )
    answer = await bench.call("user:eve", "POST", f"{API}/models/churn/versions/1/archive", {})
    assert answer.json()["code"] == "version_in_use"
    assert (await bench.call("user:admin", "DELETE", f"{API}/models/churn")).json()["code"] == "model_in_use"


async def test_pages_follow_each_other_and_foreign_tokens_are_refused(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        await bench.call("user:ana", "POST", f"{API}/models", {"name": name}, expect=201)
    first = (await bench.call("user:ana", "GET", f"{API}/models", params={"page_size": 2}, expect=200)).json()
    token = first["next_page_token"]
    second = (
        await bench.call("user:ana", "GET", f"{API}/models", params={"page_size": 2, "page_token": token}, expect=200)
    ).json()
    assert [model["name"] for model in first["models"] + second["models"]] == ["a", "b", "c"]
    assert second["next_page_token"] == ""
    await bench.call("user:ana", "GET", f"{API}/endpoints", params={"page_token": token}, expect=422)
