"""One conformance suite over both roads to the infer route: uvicorn's lane, and plain ASGI."""

import gzip
import json
from typing import Any

import httpx
import numpy as np
import pytest
from clave_inference.hot_route import grpc_deadline
from clave_inference.services.admissions import Credential
from clave_testing.infer_requests import HEADERS, ROW, ask, request_body


def test_a_prediction_carries_id_version_arm_and_outputs(server: Any) -> None:
    answer = ask(server, request_body(id="mine"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["model_name"] == "churn"
    assert document["model_version"] == "1"
    assert document["id"] == "mine"
    assert document["parameters"]["arm"] == "live"
    assert document["parameters"]["prediction_id"].startswith("prd_")
    outputs = {output["name"]: output for output in document["outputs"]}
    expected = 1 / (1 + np.exp(-0.7))
    assert outputs["probabilities"]["shape"] == [1, 2]
    assert outputs["probabilities"]["data"][1] == pytest.approx(expected, abs=1e-6)
    assert outputs["label"]["data"] == [1]


def test_requested_outputs_come_alone_and_in_their_order(server: Any) -> None:
    answer = ask(server, request_body(2, outputs=[{"name": "probabilities"}])).json()
    assert [output["name"] for output in answer["outputs"]] == ["probabilities"]
    assert answer["outputs"][0]["shape"] == [2, 2]


def test_binary_tensors_both_ways(server: Any) -> None:
    rows = np.array([[0.1, 0.2, np.nan, 0.4]], np.float32)
    head = json.dumps(
        {
            "inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    answer = ask(server, head + rows.tobytes(), headers={"inference-header-content-length": str(len(head))})
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    document = json.loads(answer.content[:length])
    tail = answer.content[length:]
    assert document["outputs"][0]["parameters"]["binary_data_size"] == 8
    assert np.frombuffer(tail[:8], "<i8").tolist() == [1]
    assert np.frombuffer(tail[8:], "<f4")[1] == pytest.approx(1 / (1 + np.exp(-0.7)), abs=1e-6)


def test_a_pinned_version_answers_as_such(server: Any) -> None:
    answer = ask(server, request_body(), path="/v2/models/churn/versions/1/infer").json()
    assert answer["parameters"]["arm"] == "pinned"


def test_a_feature_request_fetches_its_features(server: Any) -> None:
    answer = ask(server, {"parameters": {"entities": {"customer_id": [0, 1]}}})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["parameters"]["feature_status"] == {"customers": ["PRESENT", "PRESENT"]}
    probabilities = next(output for output in document["outputs"] if output["name"] == "probabilities")
    assert probabilities["data"][1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "body"),
        (b"{", "JSON"),
        (b'{"inputs": [{"name": "input", "shape": [1,4], "datatype": "FP32", "data": [NaN,1,1,1]}]}', "null"),
        (b'{"inputs": "x"}', "inputs"),
        (b'\xff\xfe{"inputs": []}', "JSON"),
        (b"{}", "inputs"),
        (b'{"parameters":{"a":' + b"[" * 20_000, "deep"),
        (b'{"inputs": [{"name": "input", "shape": [1,4], "datatype": "FP32", "data": [1e39,1,1,1]}]}', "range"),
        (b'{"inputs": [{"name": "input", "shape": [1,4], "datatype": "FP32", "data": [1e999,1,1,1]}]}', "number"),
        (b'{"inputs": [{"name": "input", "shape": [1,4], "datatype": "INT64", "data": [1,1,1,1]}]}', "INT64"),
        (b'{"inputs": [{"name": "input", "shape": [1,3], "datatype": "FP32", "data": [1,1,1]}]}', "shape"),
        (b'{"inputs": [{"name": "input", "shape": [1,4], "datatype": "FP32", "data": [1,1,1]}]}', "elements"),
        (b'{"inputs": [{"name": "input", "shape": [9223372036854775807,4], "datatype": "FP32", "data": []}]}', "elem"),
        (b'{"inputs": [{"name": "input", "shape": [-1,4], "datatype": "FP32", "data": []}]}', "negative"),
        (b'{"inputs": [{"name": "wrong", "shape": [1,4], "datatype": "FP32", "data": [1,1,1,1]}]}', "wrong"),
        (b'{"inputs": [{"name": "input", "shape": [1,4], "datatype": "FP31", "data": [1,1,1,1]}]}', "FP31"),
        (b'{"inputs": [{"name": "input", "shape": [1,4], "datatype": "FP32", "data": ["1",1,1,1]}]}', "str"),
        (b'{"inputs": [{"name": "input", "shape": [1,4], "datatype": "FP32"}]}', "missing"),
        (b'{"inputs": [{"name": "input", "shape": [0,4], "datatype": "FP32", "data": []}]}', "rows"),
        (
            (
                b'{"inputs": [{"name": "input", "shape": [1,4], "datatype": "FP32", "data": [1,1,1,1]}],'
                b'"outputs": [{"name": "nothing"}]}'
            ),
            "nothing",
        ),
    ],
)
def test_bad_input_is_refused_with_words_and_the_server_goes_on(standing_server: Any, body: bytes, word: str) -> None:
    answer = ask(standing_server, body)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert word.lower() in document["error"].lower()
    assert document["detail"] == document["error"]
    assert ask(standing_server, request_body()).status_code == 200


@pytest.mark.parametrize(
    ("length", "tail", "word"),
    [
        ("x", b"", "number"),
        ("999999", b"", "body"),
        (None, b"\0" * 12, "left"),
        (None, b"\0" * 20, "belong"),
    ],
)
def test_wrong_binary_lengths_are_refused(standing_server: Any, length: str | None, tail: bytes, word: str) -> None:
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor]}).encode()
    answer = ask(standing_server, head + tail, headers={"inference-header-content-length": length or str(len(head))})
    assert answer.status_code == 400
    assert word in answer.json()["error"]


def test_unknown_model_and_version_are_404(server: Any) -> None:
    assert ask(server, request_body(), path="/v2/models/nope/infer").status_code == 404
    assert ask(server, request_body(), path="/v2/models/churn/versions/9/infer").status_code == 404
    assert ask(server, request_body(), path="/v2/models/churn/versions/x%2F..%2F/infer").status_code == 404


def test_missing_and_wrong_keys_are_401(server: Any) -> None:
    url = f"{server.url}/v2/models/churn/infer"
    assert httpx.post(url, json=request_body()).status_code == 401
    assert httpx.post(url, json=request_body(), headers={"authorization": "Bearer bad"}).status_code == 401


def test_policy_refusal_is_403(server: Any) -> None:
    server.bench.point.allow = False
    answer = ask(server, request_body())
    assert answer.status_code == 403
    assert answer.json()["reasons"] == ["no_grant"]


def test_too_large_a_body_is_413(server: Any) -> None:
    assert ask(server, b" " * (1 << 21)).status_code == 413


def test_compressed_bodies_are_read(server: Any) -> None:
    packed = gzip.compress(json.dumps(request_body()).encode())
    assert ask(server, packed, headers={"content-encoding": "gzip"}).status_code == 200
    bomb = gzip.compress(b" " * (1 << 24))
    assert ask(server, bomb, headers={"content-encoding": "gzip"}).status_code == 413
    assert ask(server, packed, headers={"content-encoding": "br"}).status_code == 415


def test_neighbours_of_a_bad_request_are_unharmed(server: Any) -> None:
    good = json.dumps(request_body()).encode()
    bad = good.replace(b"[1, 4]", b"[1, 3]")
    with httpx.Client(base_url=server.url, headers=HEADERS) as client:
        answers = [client.post("/v2/models/churn/infer", content=body) for body in (good, bad, good)]
    assert [answer.status_code for answer in answers] == [200, 400, 200]


def test_the_rate_limit_answers_429_with_its_headers(server: Any) -> None:
    from clave_common.access.model import RateLimit

    server.bench.point.limit = RateLimit(per_minute=1, burst=3)
    first = ask(server, request_body())
    assert first.headers["ratelimit-policy"] == '"rows";q=1;w=60'
    assert first.headers["ratelimit"].startswith('"rows";r=2;t=')
    statuses = [first.status_code] + [ask(server, request_body()).status_code for _ in range(4)]
    assert statuses[:3] == [200, 200, 200]
    assert statuses[4] == 429
    refused = ask(server, request_body())
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["ratelimit-policy"] == '"rows";q=1;w=60'


def test_the_bridge_speaks_protobuf(server: Any) -> None:
    from clave_contracts.inference_grpc import open_inference_pb2 as pb

    message = pb.ModelInferRequest(model_name="churn", id="x")
    message.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    message.raw_input_contents.append(np.array(ROW, np.float32).tobytes())
    path = "/inference.GRPCInferenceService/ModelInfer"
    answer = ask(server, message.SerializeToString(), path=path)
    assert answer.headers["content-type"] == "application/x-protobuf"
    reply = pb.ModelInferResponse.FromString(answer.content)
    assert reply.id == "x"
    assert np.frombuffer(reply.raw_output_contents[1], "<f4")[1] == pytest.approx(1 / (1 + np.exp(-0.7)), abs=1e-6)
    refused = ask(server, pb.ModelInferRequest(model_name="nope").SerializeToString(), path=path)
    assert refused.headers["x-grpc-status"] == "5"


def test_every_answer_is_recorded(server: Any) -> None:
    answer = ask(server, request_body(2)).json()
    server.on_loop(server.bench.log.flush)
    record = next(
        record for record in server.bench.stream.records() if record["id"] == answer["parameters"]["prediction_id"]
    )
    assert record["columns"] == ["a", "b", "c", "d"]
    assert record["values"][0][2] is None
    assert record["values"][1][0] == pytest.approx(0.1)
    assert record["score"] == pytest.approx([1 / (1 + np.exp(-0.7))] * 2, abs=1e-6)
    assert record["label"] == [1, 1]
    assert record["principal"] == "app:web"


def test_a_model_without_trees_cannot_be_explained(server: Any) -> None:
    answer = ask(server, request_body(), path="/v2/models/churn/explain")
    assert answer.status_code == 400
    assert "model.ubj" in answer.json()["error"]
    refused = httpx.post(f"{server.url}/v2/models/churn/explain", json=request_body())
    assert refused.status_code == 401


def test_an_explanation_adds_up_to_the_margin(server: Any, tmp_path: Any) -> None:
    import hashlib

    import xgboost
    from clave_contracts.registry import Artifact

    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 4)).astype(np.float32)
    booster = xgboost.train(
        {"objective": "binary:logistic", "nthread": 1, "max_depth": 3},
        xgboost.DMatrix(rows, (rows[:, 0] > 0).astype(int)),
        5,
    )
    booster.save_model(tmp_path / "model.ubj")
    data = (tmp_path / "model.ubj").read_bytes()
    registry = server.bench.registry
    version = registry.state.versions[0]
    digest = hashlib.sha256(data).hexdigest()
    registry.blobs[digest] = data
    version.artifacts.append(Artifact(path="model.ubj", digest=digest, size=len(data)))
    registry.want([version], [(1, "live", 1.0)])
    server.on_loop(server.bench.deployment.step)
    tensor = {"name": "input", "shape": [3, 4], "datatype": "FP32", "data": rows[:3].ravel().tolist()}
    answer = ask(server, {"inputs": [tensor]}, path="/v2/models/churn/explain")
    assert answer.status_code == 200, answer.text
    document = answer.json()
    outputs = {output["name"]: output for output in document["outputs"]}
    assert document["parameters"]["columns"] == ["a", "b", "c", "d"]
    sums = np.array(outputs["contributions"]["data"]).reshape(3, 4).sum(axis=1) + outputs["base_value"]["data"]
    np.testing.assert_allclose(sums, booster.predict(xgboost.DMatrix(rows[:3]), output_margin=True), atol=1e-5)


def test_predictions_that_must_be_on_record_are_decided_each_time(server: Any) -> None:
    point = server.bench.point
    for audit, decided in (("sampled", 1), ("full", 3)):
        point.audit = audit
        server.bench.admissions.forget()
        point.calls.clear()
        assert [ask(server, request_body()).status_code for _ in range(3)] == [200] * 3
        assert len(point.calls) == decided


@pytest.mark.parametrize("timeout", ["9" * 5000 + "S", "9" * 400 + "H", "99999999999S", "-1S", "1", "S", "1x"])
def test_a_deadline_that_makes_no_sense_is_none(timeout: str) -> None:
    assert grpc_deadline(timeout.encode()) is None


def test_what_a_credential_is_known_by_is_short_and_its_own() -> None:
    parts = [b"Bearer a", "10.0.0.1", "user:a", "203.0.113.7", "proof"]
    known = set()
    for at in range(len(parts)):
        for other in (None, "x" * 60_000, parts[at]):
            said = [*parts[:at], other.encode() if at == 0 and isinstance(other, str) else other, *parts[at + 1 :]]
            key = Credential(said[0], said[1], said[2], claimed_ip=said[3], edge_proof=said[4]).key
            assert len(key) == 32
            known.add(key)
    assert len(known) == 11
