"""Every datatype through every door and a real model: the same bits come back from all of them."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_contracts.registry import Signature, TensorSpec
from clave_inference.domain.datatypes import NUMPY_DTYPES
from clave_inference.domain.tensors import Tensor, bytes_from_array
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

HEADERS = {"authorization": "Bearer good"}
ONNX = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
ROWS = 3


def echo_model() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"i_{name}"], [f"o_{name}"]) for name in ONNX],
        "echo",
        [helper.make_tensor_value_info(f"i_{name}", kind, [None, 2]) for name, kind in ONNX.items()],
        [helper.make_tensor_value_info(f"o_{name}", kind, [None, 2]) for name, kind in ONNX.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def echo(server: Any) -> Any:
    registry = server.bench.registry
    version = registry.version(1, echo_model())
    version.signature = Signature(
        inputs=[TensorSpec(name=f"i_{name}", datatype=name, shape=[-1, 2]) for name in ONNX],
        outputs=[TensorSpec(name=f"o_{name}", datatype=name, shape=[-1, 2]) for name in ONNX],
    )
    version.version = 2
    registry.want([version], [(2, "live", 1.0)])
    server.on_loop(server.bench.deployment.step)
    return server


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    made = []
    for name in ONNX:
        if name == "BYTES":
            data = np.empty(ROWS * 2, np.object_)
            texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
            data[:] = [draw(texts).encode() for _ in range(ROWS * 2)]
            made.append(Tensor(f"i_{name}", name, data.reshape(ROWS, 2)))
            continue
        dtype = NUMPY_DTYPES[name]
        width = dtype.itemsize * 8
        elements = st.floats(width=width, allow_nan=False, allow_infinity=False) if dtype.kind == "f" else None
        made.append(Tensor(f"i_{name}", name, draw(hnp.arrays(dtype, (ROWS, 2), elements=elements))))
    return made


def described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.data.shape), "datatype": tensor.datatype}


def plain(tensor: Tensor) -> list[Any]:
    values = tensor.data.ravel().tolist()
    return [value.decode() for value in values] if tensor.datatype == "BYTES" else values


def over_json(url: str, sent: list[Tensor]) -> dict[str, bytes]:
    body = {"inputs": [{**described(tensor), "data": plain(tensor)} for tensor in sent]}
    answer = httpx.post(url, content=json.dumps(body), headers=HEADERS)
    assert answer.status_code == 200, answer.text
    found: dict[str, bytes] = {}
    for output in answer.json()["outputs"]:
        kind = output["datatype"]
        data = np.empty(len(output["data"]), np.object_)
        data[:] = output["data"]
        array = data if kind == "BYTES" else np.array(output["data"], NUMPY_DTYPES[kind])
        found[output["name"]] = bytes_from_array(Tensor("", kind, array))
    return found


def over_binary(url: str, sent: list[Tensor]) -> dict[str, bytes]:
    raw = [bytes_from_array(tensor) for tensor in sent]
    inputs = [
        {**described(tensor), "parameters": {"binary_data_size": len(data)}}
        for tensor, data in zip(sent, raw, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {**HEADERS, "inference-header-content-length": str(len(head))}
    answer = httpx.post(url, content=head + b"".join(raw), headers=headers)
    assert answer.status_code == 200, answer.text
    at = int(answer.headers["inference-header-content-length"])
    found: dict[str, bytes] = {}
    for output in json.loads(answer.content[:at])["outputs"]:
        end = at + output["parameters"]["binary_data_size"]
        found[output["name"]] = answer.content[at:end]
        at = end
    return found


def over_grpc(base: str, sent: list[Tensor]) -> dict[str, bytes]:
    message = pb.ModelInferRequest(model_name="churn")
    for tensor in sent:
        message.inputs.add(**described(tensor))
        message.raw_input_contents.append(bytes_from_array(tensor))
    url = f"{base}/inference.GRPCInferenceService/ModelInfer"
    answer = httpx.post(url, content=message.SerializeToString(), headers=HEADERS)
    assert answer.status_code == 200, answer.headers
    reply = pb.ModelInferResponse.FromString(answer.content)
    return {output.name: data for output, data in zip(reply.outputs, reply.raw_output_contents, strict=True)}


@pytest.mark.parametrize("server", ["lane"], indirect=True)
def test_every_door_gives_the_same_bits(echo: Any) -> None:
    url = f"{echo.url}/v2/models/churn/infer"

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(tensors())
    def agree(sent: list[Tensor]) -> None:
        expected = {tensor.name.replace("i_", "o_"): bytes_from_array(tensor) for tensor in sent}
        assert over_binary(url, sent) == expected
        assert over_json(url, sent) == expected
        assert over_grpc(echo.url, sent) == expected

    agree()


@pytest.mark.parametrize("server", ["lane"], indirect=True)
def test_typed_contents_are_refused_where_they_have_no_place(echo: Any) -> None:
    message = pb.ModelInferRequest(model_name="churn")
    message.inputs.add(name="i_FP16", shape=[1, 2], datatype="FP16").contents.fp32_contents.extend([1.0, 2.0])
    url = f"{echo.url}/inference.GRPCInferenceService/ModelInfer"
    answer = httpx.post(url, content=message.SerializeToString(), headers=HEADERS)
    assert answer.headers["x-grpc-status"] == "3"
    assert "raw contents" in answer.headers["x-grpc-message"]
