"""Known forms of gRPC requests mean what protobuf says they mean, and join the rows of every door in one run."""

import json
import socket
import time
from typing import Any

import httpx
import numpy as np
import pytest
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_inference.codecs import grpc_message
from clave_inference.codecs.grpc_forms import Forms
from clave_inference.codecs.grpc_template import MessageTemplate
from clave_inference.domain.datatypes import NUMPY_DTYPES
from clave_inference.domain.signature import TensorSpec
from clave_inference.domain.tensors import InferenceAnswer, Tensor
from clave_inference.lane_plan import plan_key, timeout_in
from clave_inference.runtime.loaded_version import RowShape
from clave_inference.services.admissions import Credential
from clave_inference.services.call import Call
from clave_testing.patience import PATIENCE_S, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = "/inference.GRPCInferenceService/ModelInfer"
HEADERS = {"authorization": "Bearer good"}
ROW = RowShape("input", "FP32", [1, 4], 4, NUMPY_DTYPES["FP32"], ())
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
rows = st.binary(min_size=16, max_size=16)


def asked(model: str = "churn", version: str = "", name: str = "input", **more: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=more.get("id", ""))
    message.inputs.add(name=name, datatype=more.get("datatype", "FP32"), shape=more.get("shape", [1, 4]))
    message.raw_input_contents.append(more.get("row", np.ones(4, np.float32).tobytes()))
    return message


def learned(*messages: pb.ModelInferRequest) -> Forms:
    forms = Forms()
    for message in messages:
        forms.learn(message.SerializeToString(), message)
    return forms


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(names, names, names), names, st.text(st.characters(exclude_categories=["Cs"]), max_size=140), rows, rows
)
def test_a_known_form_is_read_as_protobuf_reads_it(
    names_sent: tuple[str, str, str], first: str, request_id: str, row: bytes, other: bytes
) -> None:
    model, version, name = names_sent
    forms = learned(asked(model, version, name, id=first, row=row))
    sent = asked(model, version, name, id=request_id, row=other)
    found = forms.read(sent.SerializeToString())
    if len(request_id.encode()) > 127:
        assert found is None
        return
    assert found is not None
    form, found_id, values = found
    assert (form.model, form.version, found_id) == (model, version or None, request_id or None)
    assert values == other
    assert form.fits(ROW, len(values)) == (name == "input")


@settings(max_examples=300, deadline=None)
@given(rows, st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=3), st.binary(max_size=6))
def test_bytes_that_differ_are_read_alike_or_not_at_all(
    row: bytes, changes: list[tuple[int, int]], behind: bytes
) -> None:
    body = bytearray(asked(id="abc", row=row).SerializeToString())
    for at, value in changes:
        body[at % len(body)] = value
    forms = learned(asked(id="xy"), asked(model="chur"), asked(version="2"))
    found = forms.read(bytes(body + behind))
    if found is None:
        return
    message = pb.ModelInferRequest.FromString(bytes(body + behind))
    request = grpc_message.request_of(message)
    form, request_id, values = found
    assert (form.model, form.version, request_id) == (
        message.model_name,
        message.model_version or None,
        message.id or None,
    )
    assert values == message.raw_input_contents[0]
    assert form.fits(ROW, len(values))
    assert request.raw_outputs
    assert request.inputs[0].data.tobytes() == values


def test_unusual_messages_are_not_remembered() -> None:
    typed = pb.ModelInferRequest(model_name="churn")
    typed.inputs.add(name="input", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1.0] * 4)
    wishes = asked()
    wishes.outputs.add(name="label")
    parameters = asked()
    parameters.parameters["explain"].bool_param = True
    shared = asked()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "x"
    twice = asked()
    twice.MergeFrom(asked())
    for message in (typed, wishes, parameters, shared, twice, asked(name="n" * 2_000)):
        forms = learned(message)
        assert forms.read(message.SerializeToString()) is None
    forms = Forms()
    named_again = asked().SerializeToString() + b"\x1a\x01z"
    forms.learn(named_again, pb.ModelInferRequest.FromString(named_again))
    unknown_field = b"\xfa\x01\x00" + asked().SerializeToString()
    forms.learn(unknown_field, pb.ModelInferRequest.FromString(unknown_field))
    assert forms.read(named_again) is None
    assert forms.read(unknown_field) is None


def test_forms_are_bounded() -> None:
    forms = learned(*(asked(name=f"n{number}") for number in range(3_000)))
    assert len(forms._forms) <= 1_024
    assert forms.read(asked(name="n2999").SerializeToString()) is not None


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.none() | names, names, st.integers(0, 2**32 - 1))
def test_prepared_answers_mean_what_general_ones_do(count: int, request_id: str | None, model: str, seed: int) -> None:
    chosen = np.random.default_rng(seed)
    kinds = ["FP32", "FP64", "INT64", "UINT8"]
    specs = [TensorSpec(f"o{at}", kind, (-1,) if at % 2 else (-1, at + 1)) for at, kind in enumerate(kinds)]
    outputs = [chosen.integers(0, 255, (count, *spec.shape[1:])).astype(NUMPY_DTYPES[spec.datatype]) for spec in specs]
    template = MessageTemplate(model_name=model, model_version="3", arm="canary", outputs=specs)
    for at, row in enumerate(template.rows(outputs)):
        prepared = template.render("prd_0123", request_id, row)
        tensors = [
            Tensor(spec.name, spec.datatype, output[at : at + 1]) for spec, output in zip(specs, outputs, strict=True)
        ]
        general = InferenceAnswer(model, "3", tensors, request_id, {"prediction_id": "prd_0123", "arm": "canary"})
        expected = pb.ModelInferResponse.FromString(grpc_message.encode(general, raw=True))
        assert pb.ModelInferResponse.FromString(prepared) == expected


def over_bridge(client: httpx.Client, message: pb.ModelInferRequest) -> pb.ModelInferResponse:
    answer = client.post(PATH, content=message.SerializeToString())
    assert answer.status_code == 200, answer.headers
    return pb.ModelInferResponse.FromString(answer.content)


@pytest.mark.parametrize("server", ["lane", "asgi"], indirect=True)
def test_a_known_form_is_answered_as_an_unknown_one(server: Any) -> None:
    row = np.array([0.1, 0.2, np.nan, 0.4], np.float32).tobytes()
    with httpx.Client(base_url=server.url, headers=HEADERS) as client:
        unknown = over_bridge(client, asked(id="a", row=row))
        known = over_bridge(client, asked(id="b", row=row))
        assert known.id == "b"
        assert known.raw_output_contents == unknown.raw_output_contents
        assert known.outputs == unknown.outputs
        assert known.parameters["arm"] == unknown.parameters["arm"]
        assert over_bridge(client, asked(version="1", row=row)).parameters["arm"].string_param == "pinned"
    server.on_loop(server.bench.log.flush)
    records = server.bench.stream.records()
    assert [record["protocol"] for record in records] == ["grpc"] * 3
    assert [record["id"] for record in records][1] == known.parameters["prediction_id"].string_param
    assert records[0]["values"] == records[1]["values"]
    assert records[0]["score"] == records[1]["score"]


@pytest.mark.parametrize("server", ["lane"], indirect=True)
def test_deadlines_that_differ_share_a_remembered_head(server: Any) -> None:
    plans = server.server.config.http_protocol_class.plans
    body = asked().SerializeToString()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        answers = connection.makefile("rb")

        def status(*timeouts: str) -> str:
            lines = "".join(f"grpc-timeout: {timeout}\r\n" for timeout in timeouts)
            head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\n{lines}"
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)  # in one piece
            found: dict[str, str] = {}
            while line := answers.readline().decode().strip():
                name, _, value = line.partition(": ")
                found[name] = value
            answers.read(int(found["content-length"]))
            return found.get("x-grpc-status", "0")

        assert [status("5S"), status("4999m"), status("1n"), status("4999m")] == ["0", "0", "4", "0"]
        assert len(plans) == 1
        assert status("1n", "5S") == "0"  # the parser's word: the last one counts
        assert status("5S", "1n") == "4"
        assert len(plans) == 1
    head = b"POST / HTTP/1.1\r\nx-request-id: 1-2\r\nte: trailers\r\ngrpc-timeout: %b\r\na: b\r\n\r\n"
    assert plan_key(head % b"5S") == plan_key(head % b"499m") == b"POST / HTTP/1.1\r\nte: trailers\r\na: b\r\n\r\n"
    assert timeout_in(head % b"5S") == b"5S"
    assert timeout_in(plan_key(head % b"5S")) is None


@pytest.mark.parametrize("server", ["lane"], indirect=True)
def test_a_known_form_for_another_model_is_refused_with_words(server: Any) -> None:
    bench = server.bench
    with httpx.Client(base_url=server.url, headers=HEADERS) as client:
        over_bridge(client, asked())
        changed = bench.registry.version(2, server.model())
        changed.signature.inputs[0].datatype = "FP64"
        form = bench.predictions._forms.read(asked().SerializeToString())[0]
        form._fits, form._shape = None, [1, 5]  # as after a swap to a model of another shape
        assert over_bridge(client, asked()).model_version == "1"  # the general codec judges
        wrong = client.post(PATH, content=asked(row=b"\0" * 12).SerializeToString())
        assert wrong.headers["x-grpc-status"] == "3"
        assert "bytes" in wrong.headers["x-grpc-message"]


@pytest.mark.parametrize("server", ["lane"], indirect=True)
def test_rows_of_both_protocols_share_a_run(server: Any) -> None:
    values = [0.1, 0.2, 0.3, 0.4]
    document = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": values}]}
    message = asked(row=np.array(values, np.float32).tobytes()).SerializeToString()
    bench, replies = server.bench, []

    def call(protocol: str) -> None:
        body, model = (message, "") if protocol == "grpc" else (json.dumps(document).encode(), "churn")
        sent = Call(protocol, model, None, Credential(b"Bearer good"), began=time.monotonic(), body=body)
        bench.predictions.predict(sent, lambda reply: replies.append((protocol, reply)))

    for protocol in ("grpc", "rest"):  # admitted, and the form learned
        server.on_loop(lambda protocol=protocol: call(protocol))
    wait_until(lambda: len(replies) == 2, what="the first answers")
    loaded = bench.deployment.table.versions[("churn", 1)]
    runs = loaded.runs
    server.on_loop(lambda: [call(protocol) for protocol in ("rest", "grpc", "grpc", "rest", "grpc")])
    wait_until(lambda: len(replies) == 7, what="every answer")
    assert loaded.runs == runs + 1
    raw = {
        pb.ModelInferResponse.FromString(reply.body).raw_output_contents[1]
        for protocol, reply in replies
        if protocol == "grpc"
    }
    printed = {tuple(json.loads(reply.body)["outputs"][1]["data"]) for protocol, reply in replies if protocol == "rest"}
    assert len(raw) == len(printed) == 1
    assert np.frombuffer(raw.pop(), "<f4").tolist() == np.array(printed.pop(), np.float32).tolist()
    server.on_loop(bench.log.flush)
    assert sorted(record["protocol"] for record in bench.stream.records()) == ["grpc"] * 4 + ["rest"] * 3
