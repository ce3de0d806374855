"""Untrusted model files are refused with a clear reason, in a process of their own."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from clave_inference.domain.errors import ModelRejected
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


@pytest.mark.parametrize(
    ("make", "word"),
    [
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
