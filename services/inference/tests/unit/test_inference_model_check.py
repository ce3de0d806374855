"""Untrusted model files are refused with a clear reason, in a process of their own."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from clave_inference.domain.errors import ModelRejected
from clave_inference.runtime import model_check
from clave_inference.runtime.model_check import check_file, check_in_process
from onnx import ModelProto, TensorProto, helper


def identity(**changes: object) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node(str(changes.get("op", "Identity")), ["x"], ["y"], domain=str(changes.get("domain", "")))],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, changes.get("width", 2)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, changes.get("width", 2)])],
    )
    opsets = [helper.make_opsetid("", 17)]
    if changes.get("domain"):
        opsets.append(helper.make_opsetid(str(changes["domain"]), 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def external() -> ModelProto:
    model = identity()
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    model.graph.initializer.append(tensor)
    return model


def bomb() -> ModelProto:
    model = identity()
    model.graph.initializer.append(onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40]))
    return model


def in_an_attribute() -> ModelProto:
    """External data hidden in a constant's attribute, inside the branch of an If."""
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    constant = helper.make_node("Constant", [], ["c"])
    attribute = constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(tensor)
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])])
    model = identity()
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
    return model


def with_function() -> ModelProto:
    model = identity()
    model.functions.add(name="f", domain="")
    return model


def deep() -> ModelProto:
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [])
    for _ in range(6):
        inner = helper.make_graph(
            [helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)], "g", [], []
        )
    model = identity()
    model.graph.node.extend(inner.node)
    return model


def foreign_node() -> ModelProto:
    model = identity()
    model.graph.node[0].domain = "com.microsoft"
    return model


def zip_map() -> ModelProto:
    model = identity()
    value = model.graph.output.add(name="m")
    value.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def memory_bomb() -> ModelProto:
    """Twenty bytes that ask for 16 GiB."""
    size = helper.make_tensor("size", TensorProto.INT64, [1], [1 << 32])
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [size],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def endless() -> ModelProto:
    """A loop of 2^62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [None, 2]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [None, 2]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_tensor("rounds", TensorProto.INT64, [], [1 << 62]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (in_an_attribute, "outside the model"),
        (with_function, "functions"),
        (deep, "nested deeper"),
        (foreign_node, "com.microsoft"),
        (zip_map, "not a tensor"),
        (external, "outside the model"),
        (bomb, "claims more elements"),
        (lambda: identity(domain="com.evil"), "domain"),
        (lambda: identity(width=1 << 30), "dimension"),
        (lambda: identity(op="NoSuchOperator"), "refuses"),
    ],
)
def test_tricks_are_refused(tmp_path: Path, make: Callable[[], ModelProto], word: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(ModelRejected, match=word):
        check_file(path)


def test_good_files_pass_and_junk_does_not_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(identity().SerializeToString())
    check_in_process(path)
    path.write_bytes(b"\xff" * 1000)
    with pytest.raises(ModelRejected, match="not an ONNX file"):
        check_in_process(path)


def test_bombs_exhaust_their_own_process_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(memory_bomb().SerializeToString())
    with pytest.raises(ModelRejected, match=r"refuses|memory"):
        check_in_process(path)
    monkeypatch.setattr(model_check, "WALL_S_MAX", 6.0)
    path.write_bytes(endless().SerializeToString())
    with pytest.raises(ModelRejected, match=r"took more than|time"):
        check_in_process(path)
    monkeypatch.setattr(model_check, "FILE_BYTES_MAX", 10)
    with pytest.raises(ModelRejected, match="bytes"):
        check_in_process(path)
