"""Foreign models are looked into by a process that may not do much, and refused when they could do harm."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
from clave_registry.runtime.model_inspector import Limits, ModelInspector, UnsafeModel
from onnx import ModelProto, TensorProto, helper, numpy_helper


def model(*, weights: TensorProto | None = None) -> ModelProto:
    tensor = weights or numpy_helper.from_array(np.ones((3, 1), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["score"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


async def refused(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(UnsafeModel) as caught:
        await ModelInspector(limits).inspect(stream(data), path="model.onnx")
    return caught.value.detail


async def test_a_plain_model_is_described() -> None:
    facts = await ModelInspector().inspect(stream(model().SerializeToString()), path="model.onnx")
    assert [(t.name, t.datatype, t.shape) for t in facts.inputs] == [("input", "FP32", (-1, 3))]
    assert facts.operators == ("MatMul",)


async def test_a_model_that_another_tenant_registered_is_looked_into_like_a_new_one() -> None:
    read: list[str] = []

    async def watched(tenant: str) -> AsyncIterator[bytes]:
        read.append(tenant)
        yield model().SerializeToString()

    inspector = ModelInspector()
    for tenant in ("default", "default", "rival", "rival"):
        await inspector.inspect(watched(tenant), path="model.onnx", digest="a" * 64, tenant=tenant)
    assert read == ["default", "rival"]


async def test_external_data_is_refused() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    assert "outside of the file" in await refused(model(weights=tensor).SerializeToString())


async def test_absurd_shapes_are_refused() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**40])
    assert "dimension" in await refused(model(weights=tensor).SerializeToString())


async def test_custom_operators_hidden_in_a_subgraph_are_refused() -> None:
    inner = helper.make_graph(
        [helper.make_node("Boom", [], ["y"], domain="com.evil")],
        "inner",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    outer = model()
    outer.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))
    assert "com.evil" in await refused(outer.SerializeToString())


async def test_rubbish_and_oversized_models_are_refused() -> None:
    assert "no ONNX model" in await refused(b"\x08\xff\xff\xff rubbish")
    assert "more than 1000 bytes" in await refused(b"x" * 5000, Limits(model_bytes=1000))


async def test_a_model_that_breaks_the_limits_is_refused_and_not_retried() -> None:
    tight = Limits(memory_bytes=64 * 1024 * 1024)
    assert "limits" in await refused(model().SerializeToString(), tight)
