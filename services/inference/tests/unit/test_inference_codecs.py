"""The three forms on the wire carry the same tensors, bit for bit, both ways."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_inference.codecs import grpc_message, rest_binary, rest_json
from clave_inference.codecs.answer_template import AnswerTemplate
from clave_inference.domain.datatypes import NUMPY_DTYPES
from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.domain.signature import TensorSpec
from clave_inference.domain.tensors import InferenceAnswer, Tensor, bytes_from_array
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NUMERIC = sorted(set(NUMPY_DTYPES) - {"BYTES", "FP16"})
shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from([*NUMERIC, "FP16", "BYTES"]))
    shape = draw(shapes)
    if datatype == "BYTES":
        count = int(np.prod(shape))
        data = np.empty(count, np.object_)
        data[:] = [text.encode() for text in draw(st.lists(st.text(max_size=8), min_size=count, max_size=count))]
        return Tensor("t", datatype, data.reshape(shape))
    dtype = NUMPY_DTYPES[datatype]
    elements = (
        st.floats(width=dtype.itemsize * 8, allow_infinity=False, allow_nan=True)
        if dtype.kind == "f"
        else hnp.from_dtype(dtype)
    )
    return Tensor("t", datatype, draw(hnp.arrays(dtype, shape, elements=elements)))


def plain(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "BYTES":
        return [value.decode() for value in tensor.data.ravel()]
    values = tensor.data.ravel().tolist()
    return [None if isinstance(value, float) and np.isnan(value) else value for value in values]


def nest(values: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) == 1:
        return values
    step = len(values) // shape[0]
    return [nest(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def json_body(tensor: Tensor, *, nested: bool) -> bytes:
    data = plain(tensor)
    if nested:
        data = nest(data, tensor.data.shape)
    described = {"name": "t", "shape": list(tensor.data.shape), "datatype": tensor.datatype, "data": data}
    return json.dumps({"inputs": [described]}).encode()


def binary_body(tensor: Tensor) -> tuple[bytes, int]:
    raw = bytes_from_array(tensor)
    described = {
        "name": "t",
        "shape": list(tensor.data.shape),
        "datatype": tensor.datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [described]}).encode()
    return head + raw, len(head)


def grpc_body(tensor: Tensor, *, raw: bool) -> bytes:
    message = pb.ModelInferRequest(model_name="m")
    entry = message.inputs.add(name="t", datatype=tensor.datatype, shape=tensor.data.shape)
    if raw:
        message.raw_input_contents.append(bytes_from_array(tensor))
    else:
        getattr(entry.contents, grpc_message._CONTENTS_FIELD[tensor.datatype]).extend(tensor.data.ravel().tolist())
    return message.SerializeToString()


def same(left: Tensor, right: Tensor) -> None:
    assert left.datatype == right.datatype
    assert left.data.shape == right.data.shape
    if left.datatype == "BYTES":
        assert left.data.tolist() == right.data.tolist()
        return
    assert left.data.dtype == right.data.dtype
    if left.data.dtype.kind == "f":  # one NaN is as good as another
        np.testing.assert_array_equal(np.isnan(left.data), np.isnan(right.data))
        left.data = np.where(np.isnan(left.data), 0, left.data).astype(left.data.dtype)
        right.data = np.where(np.isnan(right.data), 0, right.data).astype(right.data.dtype)
    assert left.data.tobytes() == right.data.tobytes()


@settings(max_examples=150, deadline=None)
@given(tensors(), st.booleans())
def test_requests_decode_to_the_same_tensor_from_every_form(tensor: Tensor, nested: bool) -> None:
    body, length = binary_body(tensor)
    forms = [
        rest_json.decode(json_body(tensor, nested=nested)),
        rest_binary.decode(body, length),
        grpc_message.request_of(grpc_message.parse(grpc_body(tensor, raw=True))),
    ]
    if tensor.datatype != "FP16":
        forms.append(grpc_message.request_of(grpc_message.parse(grpc_body(tensor, raw=False))))
    for form in forms:
        same(Tensor("t", tensor.datatype, tensor.data.copy()), form.inputs[0])


@settings(max_examples=150, deadline=None)
@given(tensors())
def test_answers_say_the_same_in_every_form(tensor: Tensor) -> None:
    answer = InferenceAnswer("m", "1", [tensor], "id", {"prediction_id": "p", "arm": "live"})
    document = orjson.loads(rest_json.encode(answer))
    from_json = rest_json.decode(orjson.dumps({"inputs": document["outputs"]})).inputs[0]
    body, length = rest_binary.encode(answer, binary={"t"})
    from_binary = rest_binary.decode(
        (head := orjson.dumps({"inputs": orjson.loads(body[:length])["outputs"]})) + body[length:], len(head)
    ).inputs[0]
    raw = pb.ModelInferResponse.FromString(grpc_message.encode(answer, raw=True))
    assert raw.raw_output_contents[0] == body[length:]
    assert raw.parameters["arm"].string_param == "live"
    same(from_binary, Tensor("t", tensor.datatype, tensor.data.copy()))
    same(from_json, Tensor("t", tensor.datatype, tensor.data.copy()))


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(width=32)),
    st.one_of(st.none(), st.text(max_size=10)),
)
def test_prepared_answers_mean_what_plain_ones_mean(scores: np.ndarray, request_id: str | None) -> None:
    labels = np.arange(len(scores), dtype=np.int64)
    specs = (TensorSpec("label", "INT64", (-1,)), TensorSpec('prob%"s', "FP32", (-1, scores.shape[1])))
    template = AnswerTemplate(model_name="m\u00fc%d", model_version="3", arm="live", outputs=specs)
    for row, numbers in enumerate(template.rows([labels, scores])):
        quick = template.render("prd_1", request_id, numbers)
        slow = rest_json.encode(
            InferenceAnswer(
                "m\u00fc%d",
                "3",
                [
                    Tensor("label", "INT64", labels[row : row + 1]),
                    Tensor('prob%"s', "FP32", scores[row : row + 1]),
                ],
                request_id,
                {"prediction_id": "prd_1", "arm": "live"},
            )
        )
        assert orjson.loads(quick) == orjson.loads(slow)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    for decode in (rest_json.decode, lambda b: rest_binary.decode(b, len(b) // 2)):
        try:
            decode(body)
        except InvalidInferRequest:
            continue
    try:
        grpc_message.request_of(grpc_message.parse(body))
    except InvalidInferRequest:
        return


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=10,
    ),
    st.sampled_from(["inputs", "outputs", "parameters", "id", "data", "shape", "datatype", "name"]),
)
def test_no_value_in_any_place_does_more_than_be_refused(value: Any, place: str) -> None:
    tensor: dict[str, Any] = {"name": "t", "shape": [1], "datatype": "FP32", "data": [1]}
    body: dict[str, Any] = {"inputs": [tensor]}
    (tensor if place in {"data", "shape", "datatype", "name"} else body)[place] = value
    try:
        rest_json.decode(orjson.dumps(body))
    except (InvalidInferRequest, orjson.JSONEncodeError):
        return


def test_integers_keep_every_bit() -> None:
    body = b'{"inputs":[{"name":"t","shape":[2],"datatype":"INT64","data":[9007199254740993,-9223372036854775808]}]}'
    assert rest_json.decode(body).inputs[0].data.tolist() == [9007199254740993, -9223372036854775808]


@pytest.mark.parametrize(
    "tensor",
    [
        {"name": "t", "shape": [1], "datatype": "UINT8", "data": [256]},
        {"name": "t", "shape": [1], "datatype": "UINT64", "data": [-1]},
        {"name": "t", "shape": [1], "datatype": "INT64", "data": [10**30]},
        {"name": "t", "shape": [1], "datatype": "INT64", "data": [1.5]},
        {"name": "t", "shape": [1], "datatype": "INT64", "data": [None]},
        {"name": "t", "shape": [1], "datatype": "BOOL", "data": [1]},
        {"name": "t", "shape": [1], "datatype": "FP32", "data": [True]},
        {"name": "t", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3]]},
        {"name": "t", "shape": [1] * 9, "datatype": "FP32", "data": [1]},
        {"name": "t", "shape": [2**62, 4], "datatype": "FP32", "data": [1]},
        {"name": "t", "shape": [1], "datatype": "FP32", "data": [1], "parameters": {"shared_memory_region": "x"}},
        {"name": "t", "shape": [1], "datatype": "FP32", "data": [1], "parameters": {"binary_data_size": 4}},
    ],
)
def test_values_outside_their_datatype_are_refused(tensor: dict[str, Any]) -> None:
    with pytest.raises(InvalidInferRequest):
        rest_json.decode(
            orjson.dumps({"inputs": [tensor]})
            if tensor["data"] != [10**30]
            else json.dumps({"inputs": [tensor]}).encode()
        )


def test_typed_and_raw_contents_do_not_mix() -> None:
    message = pb.ModelInferRequest(model_name="m")
    entry = message.inputs.add(name="t", datatype="FP32", shape=[1])
    entry.contents.fp32_contents.append(1.0)
    message.raw_input_contents.append(b"\0\0\0\0")
    with pytest.raises(InvalidInferRequest, match="beside"):
        grpc_message.request_of(message)
