"""Looks into one ONNX file; runs only inside the sandbox.

It never loads external data and never runs the graph.
"""

from collections.abc import Iterator
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, checker

KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
OPSET_MIN = 9
NODES_MAX = 100_000
DEPTH_MAX = 8
DIMENSION_MAX = 2**31
ELEMENTS_MAX = 2**31
IO_MAX = 4_096
RANK_MAX = 8
FAULTS_MAX = 20
_DATATYPES: dict[int, str] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.STRING: "BYTES",
}


def inspect(data: bytes) -> dict[str, Any]:
    """Describe a model and list what speaks against serving it.

    Args:
        data: The serialised ModelProto.

    Returns:
        ``faults`` (at most 20 sentences; empty when the model may be served), ``inputs`` and ``outputs`` (name,
        Open Inference Protocol datatype, shape with -1 for a free dimension), ``opsets`` and ``operators``.
    """
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # noqa: BLE001 - the parser's own error type differs between protobuf releases
        return {"faults": [f"it is no ONNX model ({type(error).__name__})"]}
    faults = list(_faults(model))[:FAULTS_MAX]
    report: dict[str, Any] = {
        "faults": faults,
        "inputs": [_tensor(value) for value in _true_inputs(model.graph)[:IO_MAX]],
        "outputs": [_tensor(value) for value in model.graph.output[:IO_MAX]],
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "operators": sorted({node.op_type for node in _nodes(model)})[:200],
        "producer": f"{model.producer_name} {model.producer_version}".strip()[:100],
    }
    if not faults:
        try:
            checker.check_model(data, full_check=False)
        except checker.ValidationError as error:
            report["faults"] = [f"the ONNX checker refuses it: {str(error).splitlines()[0][:300]}"]
    return report


def _faults(model: ModelProto) -> Iterator[str]:
    if not model.opset_import or not model.graph.node:
        yield "it has no operators"
        return
    yield from _domain_faults(model)
    yield from _size_faults(model)
    for tensor in _tensors(model):
        yield from _tensor_faults(tensor)
    for value in (*_true_inputs(model.graph), *model.graph.output):
        yield from _value_faults(value)


def _domain_faults(model: ModelProto) -> Iterator[str]:
    for entry in model.opset_import:
        if entry.domain not in KNOWN_DOMAINS:
            yield f"it needs the custom operator domain '{entry.domain[:80]}'"
        elif entry.domain in {"", "ai.onnx"} and entry.version < OPSET_MIN:
            yield f"its opset {entry.version} is older than {OPSET_MIN}"
    domains = {node.domain for node in _nodes(model)} | {function.domain for function in model.functions}
    for domain in sorted(domains - KNOWN_DOMAINS):
        yield f"it uses an operator of the custom domain '{domain[:80]}'"


def _size_faults(model: ModelProto) -> Iterator[str]:
    if any(number >= NODES_MAX for number, _ in enumerate(_nodes(model))):
        yield f"it has more than {NODES_MAX} operators"
        return
    if len(model.graph.input) > IO_MAX or len(model.graph.output) > IO_MAX:
        yield f"it has more than {IO_MAX} inputs or outputs"


def _tensor_faults(tensor: TensorProto) -> Iterator[str]:
    name = tensor.name[:80]
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        yield f"tensor '{name}' keeps its data outside of the file"
        return
    elements = 1
    for dimension in tensor.dims:
        if not 0 <= dimension <= DIMENSION_MAX:
            yield f"tensor '{name}' has the dimension {dimension}"
            return
        elements *= dimension
        if elements > ELEMENTS_MAX:
            yield f"tensor '{name}' claims more than {ELEMENTS_MAX} elements"
            return


def _value_faults(value: ValueInfoProto) -> Iterator[str]:
    name = value.name[:80]
    kind = value.type.WhichOneof("value")
    if kind not in {"tensor_type", "sequence_type", "map_type"}:
        yield f"'{name}' is neither a tensor nor a sequence"
        return
    shape = value.type.tensor_type.shape.dim
    if len(shape) > RANK_MAX:
        yield f"'{name}' has more than {RANK_MAX} dimensions"
    for dimension in shape:
        if dimension.HasField("dim_value") and not -1 <= dimension.dim_value <= DIMENSION_MAX:
            yield f"'{name}' has the dimension {dimension.dim_value}"


def _true_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _tensor(value: ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    known = value.type.WhichOneof("value") == "tensor_type"
    return {
        "name": value.name[:256],
        "datatype": _DATATYPES.get(kind.elem_type, "UNKNOWN") if known else "SEQUENCE",
        "shape": [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else -1 for d in kind.shape.dim],
    }


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for body in (model.graph, *model.functions):
        yield from _nodes_of(body, 0)


def _nodes_of(body: GraphProto | FunctionProto, depth: int) -> Iterator[NodeProto]:
    if depth > DEPTH_MAX:
        raise RecursionError(f"graphs nested deeper than {DEPTH_MAX}")
    for node in body.node:
        yield node
        for attribute in node.attribute:
            for graph in _graphs(attribute):
                yield from _nodes_of(graph, depth + 1)


def _graphs(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _tensors_of(model.graph)
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in _graphs(attribute):
                yield from _tensors_of(graph)


def _tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
