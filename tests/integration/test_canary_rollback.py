"""A version that fails on some requests is taken back by itself: monitor sees it, registry acts, nobody is asked."""

from collections import Counter
from typing import Any
from uuid import uuid4

import httpx
import pytest
from clave_testing.patience import LONG_S, PATIENCE_S, wait_until
from clave_testing.served_models import API, ROW, serve_model, upload, version_request
from clave_testing.stack import Stack
from onnx import TensorProto, helper

pytestmark = pytest.mark.stack
KNOWN = 8
"""Values of the first column that the challenger knows; it fails on any above."""
PLAN = {"steps": [{"weight": 0.5, "bake_s": 3600, "rows_min": 50}], "step_s_max": 7200}


def forgetful_model() -> bytes:
    """A scorer that looks the first column up in a table of eight: whatever lies beyond is an error at run time."""
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["input", "first", "second", "axis"], ["tenure"]),
            helper.make_node("Cast", ["tenure"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "place"], ["score"]),
        ],
        "forgetful",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor("first", TensorProto.INT64, [1], [0]),
            helper.make_tensor("second", TensorProto.INT64, [1], [1]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("table", TensorProto.FLOAT, [KNOWN], [0.5] * KNOWN),
        ],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )


def row(tenure: float) -> dict[str, Any]:
    return {"inputs": [{**ROW["inputs"][0], "data": [tenure, 2.0, 3.0]}]}


def test_a_canary_that_fails_goes_back_by_itself(stack: Stack) -> None:
    name = f"forgetful-{uuid4().hex[:8]}"
    serve_model(stack, name)
    with httpx.Client(base_url=stack.url, headers=stack.headers, timeout=PATIENCE_S) as client:
        artifact = upload(client, "model.onnx", forgetful_model())
        assert client.post(f"{API}/models/{name}/versions", json=version_request([artifact])).status_code == 201
        started = client.post(f"{API}/endpoints/{name}/rollouts", json={"version": 2, "plan": PLAN})
        assert started.status_code == 201, started.text
        rollout = f"{API}/rollouts/{started.json()['id']}"
        seen: Counter[int] = Counter()

        def ended() -> bool:
            for tenure in (1.0, KNOWN + 1.0, 2.0):  # few at a time: the endpoint has a limit
                seen[client.post(f"/v2/models/{name}/infer", json=row(tenure)).status_code] += 1
            return client.get(rollout).json()["finished_at"] is not None

        wait_until(ended, what="the rollout to end", seconds=LONG_S)
        found = client.get(rollout).json()
        assert (found["state"], found["events"][-1]["by"]) == ("rolled_back", "service:registry")
        assert "error_rate" in found["outcome"]
        assert set(seen) == {200, 400}
        endpoint = f"{API}/endpoints/{name}"
        wait_until(lambda: client.get(endpoint).json()["in_sync"], what="inference to follow")
        assert client.get(endpoint).json()["live_version"] == 1
        assert {client.post(f"/v2/models/{name}/infer", json=row(KNOWN + 1.0)).status_code for _ in range(9)} == {200}
    assert "error_rate" in stack.clave("rollout", "list", name, "--output", "json").stdout
