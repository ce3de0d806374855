"""A model that was made elsewhere: its files, its rows, and what is told about them."""

import inspect
import json
from hashlib import sha256

import httpx
import numpy as np
import pandas as pd
import pytest
from clave import AsyncClient, Client, ServiceProblem
from clave.failures import EnvironmentFailure, Failure
from clave.registration import artifact_paths
from clave.rows import tensor_of_rows

METADATA = {"name": "risk", "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 2]}]}
VERSION = {
    "model": "risk",
    "version": 1,
    "status": "draft",
    "manifest_digest": "a" * 64,
    "artifacts": [],
    "signature": {},
    "created_at": "2026-11-22T08:00:00Z",
    "created_by": "user:ana",
}


@pytest.mark.parametrize(
    "rows",
    [
        [[0.5, float("nan")], [1, 2]],
        [(0.5, None), (1, 2)],
        np.array([[0.5, np.nan], [1, 2]]),
        pd.DataFrame({"a": [0.5, 1], "b": [np.nan, 2]}),
    ],
    ids=["lists", "tuples", "array", "frame"],
)
def test_rows_become_the_tensor_that_the_model_takes(rows):
    tensor = tensor_of_rows(METADATA, rows)
    assert (tensor.name, tensor.datatype, tensor.shape) == ("input", "FP32", [2, 2])
    assert tensor.data == [0.5, None, 1, 2]


@pytest.mark.parametrize("rows", [[], [1, 2], [[1, 2, 3]], [[1, 2], [3]], np.array([1.0, 2.0])])
def test_rows_that_are_no_table_of_the_models_width_are_refused(rows):
    with pytest.raises(ValueError, match=r"rows is a table|takes 2 columns"):
        tensor_of_rows(METADATA, rows)


def test_a_model_of_two_inputs_takes_tensors():
    twice = {"name": "risk", "inputs": [*METADATA["inputs"], {"name": "more", "datatype": "FP32", "shape": [-1, 1]}]}
    with pytest.raises(ValueError, match="takes the inputs input, more"):
        tensor_of_rows(twice, [[1, 2]])


def test_one_onnx_file_is_the_model_whatever_it_is_called(tmp_path):
    made, held = tmp_path / "Risk final.onnx", tmp_path / "held-out.parquet"
    made.write_bytes(b"graph")
    held.write_bytes(b"rows")
    assert artifact_paths(made, held) == {"model.onnx": made, "monitoring/reference.parquet": held}
    with pytest.raises(EnvironmentFailure, match=r"no file nowhere\.onnx"):
        artifact_paths("nowhere.onnx")


async def test_only_bytes_that_are_not_there_are_uploaded(tmp_path):
    known, new = tmp_path / "model.onnx", tmp_path / "notes.md"
    known.write_bytes(b"graph")
    new.write_bytes(b"notes")
    calls: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if request.method == "HEAD":
            return httpx.Response(200 if sha256(b"graph").hexdigest() in request.url.path else 404)
        return httpx.Response(201, json=VERSION if request.method == "POST" else None)

    async with AsyncClient("http://stack", "k") as client:
        await client.http.aclose()
        client.http = httpx.AsyncClient(base_url="http://stack", transport=httpx.MockTransport(answer))
        client.registry.http = client.http
        files = {"model.onnx": known, "docs/notes.md": new}
        judged = {"metrics": {"test": {"auc": 0.8}}, "gates": [], "passed": True}
        version = await client.register_version(
            "risk", files, columns=["a"], score="score:0", threshold=0.3, evaluation=judged
        )
        with pytest.raises(Failure, match=r"evaluation has a fault at gates: Field required"):
            await client.register_version("risk", files, evaluation={"metrics": {}, "passed": True})
    assert version.version == 1
    puts = [call for call in calls if call.method == "PUT"]
    assert [(call.url.path.rsplit("/", 1)[1], call.content) for call in puts] == [
        (sha256(b"notes").hexdigest(), b"notes")
    ]
    calls = [call for call in calls if call.method == "POST"]
    body = json.loads(calls[-1].content)
    assert body["evaluation"]["metrics"] == judged["metrics"]
    assert [(one["path"], one["size"]) for one in body["artifacts"]] == [("model.onnx", 5), ("docs/notes.md", 5)]
    assert body["signature"] | {"columns": ["a"], "positive_output": "score:0", "threshold": 0.3} == body["signature"]
    assert calls[-1].headers["idempotency-key"].startswith("register-")


async def test_a_model_that_is_there_already_is_taken_only_when_that_is_said():
    described = {"name": "risk", "created_at": "2026-11-22T08:00:00Z", "created_by": "user:ana"}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(409, json={"code": "already_exists", "detail": "There is one."})
        return httpx.Response(200, json=described)

    async with AsyncClient("http://stack", "k") as client:
        await client.http.aclose()
        client.registry.http = client.http = httpx.AsyncClient(
            base_url="http://stack", transport=httpx.MockTransport(answer)
        )
        with pytest.raises(ServiceProblem, match="There is one"):
            await client.create_model("risk")
        assert (await client.create_model("risk", exist_ok=True)).created_by == "user:ana"


def test_both_clients_take_and_offer_the_same():
    def public(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    calls, waits = public(AsyncClient), public(Client)
    assert {name: waits.get(name) for name in calls if name != "aclose"} == {
        name: parameters for name, parameters in calls.items() if name != "aclose"
    }
