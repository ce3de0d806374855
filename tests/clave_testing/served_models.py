"""A small model that a running stack serves: uploaded, registered and deployed as a client does it."""

import hashlib
from typing import Any

import httpx
from onnx import TensorProto, helper

from clave_testing.patience import PATIENCE_S, wait_until
from clave_testing.stack import Stack

API = "/api/registry/v1"
COLUMNS = ["tenure", "monthly_charges", "contract"]
ROW: dict[str, Any] = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}]}


def onnx_model() -> bytes:
    """A linear scorer: input (n, 3), output ``score`` (n, 1)."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logit"]), helper.make_node("Sigmoid", ["logit"], ["score"])],
        "scorer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [0.5] * 3)],
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def version_request(artifacts: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Describe a version of that model."""
    return {
        "artifacts": artifacts,
        "signature": {
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}],
            "columns": COLUMNS,
            "positive_output": "score:0",
        },
        **changes,
    }


def upload(client: httpx.Client, path: str, data: bytes) -> dict[str, Any]:
    """Put bytes into the registry; returns the artifact that names them."""
    digest = hashlib.sha256(data).hexdigest()
    answer = client.put(f"{API}/blobs/{digest}", content=data)
    assert answer.status_code == 200, answer.text
    return {"path": path, "digest": digest, "size": len(data)}


def serve_model(stack: Stack, name: str, *, headers: dict[str, str] | None = None) -> None:
    """Make model `name`, version 1 of it, and an endpoint of that name in Development; wait until it predicts."""
    with httpx.Client(base_url=stack.url, headers=headers or stack.headers, timeout=PATIENCE_S) as client:
        artifact = upload(client, "model.onnx", onnx_model())
        for path, body in (
            (f"{API}/models", {"name": name}),
            (f"{API}/models/{name}/versions", version_request([artifact])),
            (f"{API}/endpoints", {"name": name, "model": name, "version": 1, "namespace": "Development"}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 201, answer.text
        wait_until(
            lambda: client.post(f"/v2/models/{name}/infer", json=ROW).status_code == 200,
            what=f"{name} to be served",
        )
