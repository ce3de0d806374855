"""What goes on beside a prediction: explanations with it, shadows, traces, the access log, overload."""

import asyncio
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import xgboost
from clave_contracts.events import PredictionRecord
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_contracts.registry import Artifact
from clave_inference.codecs import grpc_message
from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.domain.trace import trace_of
from clave_testing.patience import PATIENCE_S, wait_until
from hypothesis import given
from hypothesis import strategies as st

HEADERS = {"authorization": "Bearer good"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
INFER = "/v2/models/churn/infer"
EXPLAIN = "/v2/models/churn/explain"


def body(rows: int = 1, **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "input", "shape": [rows, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4] * rows}
    return {"inputs": [tensor], **({"parameters": parameters} if parameters else {})}


def ask(server: Any, content: Any, path: str = INFER, **headers: str) -> httpx.Response:
    return httpx.post(server.url + path, json=content, headers={**HEADERS, **headers}, timeout=PATIENCE_S)


def with_trees(server: Any, folder: Path) -> xgboost.Booster:
    """Give version 1 a tree file."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 4)).astype(np.float32)
    matrix = xgboost.DMatrix(rows, (rows[:, 0] > 0).astype(int))
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1, "max_depth": 3}, matrix, 5)
    booster.save_model(folder / "model.ubj")
    data = (folder / "model.ubj").read_bytes()
    registry, digest = server.bench.registry, hashlib.sha256(data).hexdigest()
    registry.blobs[digest] = data
    version = registry.state.versions[0]
    version.artifacts.append(Artifact(path="model.ubj", digest=digest, size=len(data)))
    registry.want([version], [(1, "live", 1.0)])
    server.on_loop(server.bench.deployment.step)
    return booster


def test_a_prediction_can_bring_its_explanation(server: Any, tmp_path: Path) -> None:
    booster = with_trees(server, tmp_path)
    answer = ask(server, body(2, explain=True))
    assert answer.status_code == 200, answer.text
    document = answer.json()
    outputs = {output["name"]: output for output in document["outputs"]}
    assert list(outputs) == ["label", "probabilities", "contributions", "base_value"]
    assert document["parameters"]["columns"] == ["a", "b", "c", "d"]
    assert document["parameters"]["prediction_id"].startswith("prd_")
    sums = np.array(outputs["contributions"]["data"]).reshape(2, 4).sum(axis=1) + outputs["base_value"]["data"]
    row = np.array([[0.1, 0.2, 0.3, 0.4]] * 2, np.float32)
    np.testing.assert_allclose(sums, booster.predict(xgboost.DMatrix(row), output_margin=True), atol=1e-5)
    message = pb.ModelInferRequest(model_name="churn")
    message.inputs.add(name="input", datatype="FP32", shape=[2, 4])
    message.raw_input_contents.append(row.tobytes())
    message.parameters["explain"].bool_param = True
    content = message.SerializeToString()
    url = f"{server.url}/inference.GRPCInferenceService/ModelInfer"
    reply = pb.ModelInferResponse.FromString(
        httpx.post(url, content=content, headers=HEADERS, timeout=PATIENCE_S).content
    )
    assert [output.name for output in reply.outputs] == list(outputs)
    assert np.frombuffer(reply.raw_output_contents[2]).tolist() == outputs["contributions"]["data"]


def test_what_is_withheld_is_refused_or_neither_used_nor_named(server: Any, tmp_path: Path) -> None:
    booster = with_trees(server, tmp_path)
    entities = {"entities": {"customer_id": [1]}}
    free = ask(server, {"parameters": entities}).json()["parameters"]
    assert "features_withheld" not in free
    refused = ask(server, {"parameters": {**entities, "purpose": "marketing"}})
    assert refused.status_code == 403
    masked = {**entities, "purpose": "marketing", "on_withheld": "mask"}
    expected = booster.predict(xgboost.DMatrix([[1, np.nan, 1, 1]]), pred_contribs=True)[0, :4]
    for content, path in (({"parameters": {**masked, "explain": True}}, INFER), ({"parameters": masked}, EXPLAIN)):
        answer = ask(server, content, path)
        assert answer.status_code == 200, answer.text
        document = answer.json()
        assert document["parameters"]["columns"] == ["a", "withheld", "c", "d"]
        assert document["parameters"]["features_withheld"] == 1
        contributions = next(output for output in document["outputs"] if output["name"] == "contributions")
        assert np.abs(np.array(contributions["data"]) - expected).max() < 1e-5
    for wrong in ({"on_withheld": "hide"}, {"purpose": "a\r\nb"}, {"purpose": 5}):
        assert ask(server, {"parameters": {**entities, **wrong}}).status_code == 400


def test_explaining_has_its_bounds(server: Any, tmp_path: Path) -> None:
    assert ask(server, body(explain="yes")).status_code == 400
    refused = ask(server, body(explain=True))
    assert (refused.status_code, refused.json()["code"]) == (400, "cannot_explain")
    with_trees(server, tmp_path)
    assert "at most 100" in ask(server, body(101, explain=True)).json()["error"]


def shadow(server: Any, run: Any) -> None:
    """Serve version 2 as a shadow of version 1, whose runs are `run`."""
    registry, bench = server.bench.registry, server.bench
    second = registry.version(2, server.model(2.0))
    registry.want([registry.state.versions[0], second], [(1, "live", 1.0), (2, "shadow", 0.0)])
    server.on_loop(bench.deployment.step)
    loaded = bench.deployment.table.versions[("churn", 2)]
    real = loaded.session.run
    loaded.session.run = lambda *arguments: run(real, *arguments)


def records(server: Any) -> list[PredictionRecord]:
    server.on_loop(server.bench.log.flush)
    return [PredictionRecord.model_validate(record) for record in server.bench.stream.records()]


def test_a_slow_shadow_delays_nobody_and_is_logged_as_such(server: Any) -> None:
    release = threading.Event()

    def slow(real: Any, *arguments: Any) -> Any:
        release.wait(10)
        return real(*arguments)

    shadow(server, slow)
    answers = [ask(server, body()).json() for _ in range(20)]  # none would come while the shadow holds the loop
    assert {answer["parameters"]["arm"] for answer in answers} == {"live"}
    assert {record.arm for record in records(server)} == {"live"}
    release.set()
    wait_until(lambda: not server.bench.predictions.in_flight, what="the shadow's copies")
    copies = [record for record in records(server) if record.arm == "shadow"]
    # An id of its own: the monitor keeps one record an id, and the caller's stays the caller's.
    assert {copy.id for copy in copies} == {f"{answer['parameters']['prediction_id']}~2" for answer in answers}
    assert {copy.model_version for copy in copies} == {2}
    assert copies[0].score != [answers[0]["outputs"][1]["data"][1]]
    scores = httpx.get(f"{server.url}/metrics").text
    assert 'arm="shadow"' not in scores


def test_a_failing_or_overwhelmed_shadow_harms_nobody(server: Any) -> None:
    release = threading.Event()

    def failing(_real: Any, *_arguments: Any) -> Any:
        release.wait(10)
        raise ValueError("broken")

    shadow(server, failing)
    answers = [ask(server, body(30)) for _ in range(8)]  # 100 rows may wait
    assert {answer.status_code for answer in answers} == {200}
    release.set()
    wait_until(lambda: not server.bench.predictions.in_flight, what="the shadow's copies")
    copies = [record for record in records(server) if record.arm == "shadow"]
    assert len(copies) == 8
    assert {copy.error for copy in copies} == {"overloaded", "ValueError"}


def test_a_trace_goes_on_into_the_log(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    traced = ask(server, body(), traceparent=f"00-{TRACE}-00f067aa0ba902b7-01").json()
    several = ask(server, body(2), traceparent=f"00-{TRACE}-00f067aa0ba902b7-01").json()
    plain = ask(server, body(), traceparent="nonsense").json()
    by_id = {record.id: record.trace_id for record in records(server)}
    assert by_id[traced["parameters"]["prediction_id"]] == TRACE
    assert by_id[several["parameters"]["prediction_id"]] == TRACE
    assert by_id[plain["parameters"]["prediction_id"]] is None
    lines = capsys.readouterr().out
    assert f"trace_id={TRACE}" in lines
    assert "principal=app:web" in lines


@given(st.text(max_size=70))
def test_odd_trace_headers_start_no_trace(text: str) -> None:
    assert trace_of(text) is None


def test_a_trace_is_passed_on_with_a_span_of_our_own() -> None:
    trace = trace_of(f"00-{TRACE}-00f067aa0ba902b7-01", "vendor=1")
    assert trace is not None
    version, trace_id, span, flags = trace.headers()["traceparent"].split("-")
    assert (version, trace_id, flags, trace.headers()["tracestate"]) == ("00", TRACE, "01", "vendor=1")
    assert len(span) == 16
    assert span != "00f067aa0ba902b7"
    assert trace_of(f"ff-{TRACE}-00f067aa0ba902b7-01") is None
    assert trace_of(f"00-{'0' * 32}-00f067aa0ba902b7-01") is None


def test_overload_is_shed_with_a_time_to_come_back(server: Any) -> None:
    """Requests that arrive while the queue is full are refused at once, and those in it are answered."""
    count, rows = 60, 50  # 1,000 rows may wait

    async def burst() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=server.url, headers=HEADERS, limits=limits, timeout=PATIENCE_S) as client:
            await asyncio.gather(*(client.get("/v2/health/live") for _ in range(count)))
            # The loop stands still for a while; requests pile up in their sockets.
            server.loop.call_soon_threadsafe(threading.Event().wait, 0.5)
            return list(await asyncio.gather(*(client.post(INFER, json=body(rows)) for _ in range(count))))

    answers = asyncio.run(burst())
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 20
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["code"] == "overloaded"
    assert ask(server, body()).status_code == 200


GOOD_TENSOR = '{"name":"input","shape":[1,4],"datatype":"FP32","data":%s}'
KEYS = ",".join(f'"k{i}":0' for i in range(90_000))
GOOD = GOOD_TENSOR % "[1,1,1,1]"
BOMBS = {
    "very many keys": '{"inputs":[],' + KEYS + "}",
    "a million keys": '{"inputs":[],' + KEYS + "," + '"x":0,' * 910_000 + '"y":0}',
    "very many parameters": '{"parameters":{' + KEYS + '},"inputs":[]}',
    "very many nested parameters": '{"parameters":{"a":{' + KEYS + KEYS.replace("k", "l") + '}},"inputs":[]}',
    "very many parameters of a tensor": '{"inputs":[' + GOOD[:-1] + ',"parameters":{' + KEYS + "}}]}",
    "very many join keys": '{"parameters":{"entities":{' + KEYS + "}}}",
    "a million values": '{"inputs":[' + GOOD_TENSOR % ("[" + "1," * 1_000_000 + "1]") + "]}",
    "a number of many digits": '{"inputs":[' + GOOD_TENSOR % ("[" + "9" * 100_000 + ",1,1,1]") + "]}",
    "a tiny exponent bomb": '{"inputs":[' + GOOD_TENSOR % "[1e999999999,1,1,1]" + "]}",
    "deep arrays": '{"inputs":[' + GOOD_TENSOR % ("[" * 50_000) + "]}",
    "deep nested data": '{"inputs":[' + GOOD_TENSOR % ("[" * 200 + "1" + "]" * 200) + "]}",
    "deep objects": '{"parameters":' + '{"a":' * 50_000,
    "many tensors": '{"inputs":[' + ",".join([GOOD] * 5_000) + "]}",
    "many dimensions": '{"inputs":[{"name":"input","shape":[' + "1," * 100_000 + '1],"datatype":"FP32","data":[1]}]}',
    "a shape that overflows": '{"inputs":[{"name":"input","shape":[4294967296,4294967296],'
    '"datatype":"FP32","data":[]}]}',
    "many outputs": '{"inputs":[' + GOOD + '],"outputs":[' + '{"name":"x"},' * 20_000 + '{"name":"x"}]}',
    "an id that is a number": '{"id":5,"inputs":[' + GOOD + "]}",
    "a long id": '{"id":"' + "x" * 30_000 + '","inputs":[' + GOOD + "]}",
}


@pytest.mark.parametrize("what", sorted(BOMBS))
def test_bombs_are_refused_and_the_server_goes_on(standing_server: Any, what: str) -> None:
    url = standing_server.url + INFER
    answer = httpx.post(url, content=BOMBS[what].encode(), headers=HEADERS, timeout=PATIENCE_S)
    assert answer.status_code in {400, 413}, answer.text[:200]
    document = answer.json()
    assert document["error"] == document["detail"]
    assert len(answer.content) < 3_000
    assert ask(standing_server, body()).status_code == 200


def entries(count: int, number: int, content: bytes = b"") -> bytes:
    """Many length-delimited fields of a protobuf message, each below 128 bytes."""
    return (bytes([number << 3 | 2, len(content)]) + content) * count


def one(number: int, content: bytes) -> bytes:
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


NAMED = one(1, b"churn")
MESSAGES = {
    "very many inputs": NAMED + entries(300_000, 5),
    "very many raw contents": NAMED + entries(300_000, 7),
    "very many parameters": NAMED + entries(100_000, 4, one(1, b"k")),
    "very many parameters of an input": NAMED + one(5, entries(100_000, 4, one(1, b"k"))),
    "very many dimensions": NAMED + one(5, one(3, b"\1" * 200_000)),
    "too long typed contents": NAMED + one(5, one(5, one(6, bytes(2_000_000)))),
    "typed contents of another shape": NAMED
    + one(5, one(2, b"FP32") + one(3, b"\1\4") + one(5, one(6, bytes(900_000)))),
    "a field that runs past the end": NAMED + one(4, bytes(70_000))[:-1],
    "an unknown kind of field": NAMED + b"\x0b" * 70_000,
    "a tag that never ends": NAMED + b"\xff" * 70_000,
}


@pytest.mark.parametrize("what", sorted(MESSAGES))
def test_messages_of_too_many_parts_are_refused_before_they_are_parsed(what: str) -> None:
    with pytest.raises(InvalidInferRequest):
        grpc_message.request_of(grpc_message.parse(MESSAGES[what]))


def test_a_bombs_refusal_over_grpc_leaves_the_server_alone(standing_server: Any) -> None:
    url = f"{standing_server.url}/inference.GRPCInferenceService/ModelInfer"
    answer = httpx.post(url, content=MESSAGES["very many inputs"], headers=HEADERS, timeout=PATIENCE_S)
    assert (answer.status_code, answer.headers["x-grpc-status"]) == (400, "3")
    assert ask(standing_server, body()).status_code == 200


@pytest.mark.parametrize("count", [70_000, 140_000])
def test_bytes_elements_end_where_the_shape_does(standing_server: Any, count: int) -> None:
    """Two hundred thousand empty elements behind a shape that names fewer, or more than one tensor may hold."""
    tensor = {"name": "input", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": 800_000}}
    head = json.dumps({"inputs": [tensor]}).encode()
    length = {"inference-header-content-length": str(len(head))}
    answer = httpx.post(
        standing_server.url + INFER, content=head + bytes(800_000), headers={**HEADERS, **length}, timeout=PATIENCE_S
    )
    assert answer.status_code == 400
    assert "BYTES elements" in answer.json()["error"]
