"""Small models for the integration tests."""

import onnx
from clave_contracts.registry import Signature, TensorSpec
from onnx import TensorProto, helper

COLUMNS = ["a", "b", "c", "d"]


def sum_model(weight: float) -> bytes:
    """`probabilities:1` = sigmoid(weight x sum of the row)."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "weights"], ["margin"]),
            helper.make_node("Sigmoid", ["margin"], ["score"]),
            helper.make_node("Sub", ["one", "score"], ["complement"]),
            helper.make_node("Concat", ["complement", "score"], ["probabilities"], axis=1),
        ],
        "sum",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, [4, 1], [weight] * 4),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def sum_signature() -> Signature:
    return Signature(
        inputs=[TensorSpec(name="input", datatype="FP32", shape=[-1, 4])],
        outputs=[TensorSpec(name="probabilities", datatype="FP32", shape=[-1, 2])],
        columns=COLUMNS,
        positive_output="probabilities:1",
    )
