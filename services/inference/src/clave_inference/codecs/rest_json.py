"""REST bodies in JSON: `/v2/models/{model}/infer` as people and most clients write it.

Ordinary requests (floating point tensors with flat data) take one pass of a typed decoder. Everything else (integers,
which must not pass through a float; booleans; strings; nested lists) takes a second, general pass; only there are
faults worded. `null` is a missing value and becomes NaN. The literals NaN and Infinity are not JSON and are refused.
"""

from typing import Annotated, Any

import msgspec
import numpy as np
import orjson

from clave_inference.codecs.binary_tail import BinaryTail
from clave_inference.domain.datatypes import BYTES, FLOATS, NUMPY_DTYPES
from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.domain.tensors import (
    ELEMENTS_MAX,
    PARAMETERS_MAX,
    TENSORS_MAX,
    InferenceAnswer,
    InferenceRequest,
    RequestedOutput,
    Tensor,
    array_from_values,
)

_SHARED_MEMORY = "shared_memory_"
_TENSORS = msgspec.Meta(max_length=TENSORS_MAX)
_PARAMETERS = msgspec.Meta(max_length=PARAMETERS_MAX)


class PlainTensor(msgspec.Struct, gc=False):
    """A tensor of numbers with flat data; null is a missing value."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float | None]
    parameters: dict[str, Any] | None = None


class PlainRequest(msgspec.Struct, gc=False):
    """A request whose tensors are all plain."""

    inputs: Annotated[list[PlainTensor], _TENSORS] = []
    id: str | None = None
    parameters: Annotated[dict[str, Any], _PARAMETERS] | None = None
    outputs: list[Any] | None = None


class TensorDocument(msgspec.Struct):
    """A tensor of any kind; its data wait for the datatype to be known."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: Annotated[dict[str, Any], _PARAMETERS] | None = None


class OutputDocument(msgspec.Struct):
    """An output as the caller asks for it."""

    name: str
    parameters: Annotated[dict[str, Any], _PARAMETERS] | None = None


class RequestDocument(msgspec.Struct):
    """The JSON part of any request."""

    inputs: Annotated[list[TensorDocument], _TENSORS] = []
    id: str | None = None
    parameters: Annotated[dict[str, Any], _PARAMETERS] | None = None
    outputs: Annotated[list[OutputDocument], _TENSORS] | None = None


_decode_plain = msgspec.json.Decoder(PlainRequest).decode
_decode_any = msgspec.json.Decoder(RequestDocument).decode
_decode_values = msgspec.json.Decoder().decode
_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_plain(body: bytes) -> PlainRequest | None:
    """Decode a request of plain tensors; None where it is anything else, or faulty."""
    try:
        return _decode_plain(body)
    except _FAULTS:
        return None


def decode(body: bytes) -> InferenceRequest:
    """Decode a JSON request.

    Raises:
        InvalidInferRequest: The body is not JSON, or not a request of the protocol.
    """
    plain = decode_plain(body)
    return request_from_document(decode_document(body), None) if plain is None else request_from_plain(plain, body)


def request_from_plain(plain: PlainRequest, body: bytes) -> InferenceRequest:
    """Turn a decoded plain request into arrays; `body` is where faults are looked for and worded.

    Raises:
        InvalidInferRequest: A tensor is malformed.
    """
    inputs: list[Tensor] = []
    for tensor in plain.inputs:
        datatype, shape, data = tensor.datatype, tensor.shape, tensor.data
        if datatype not in FLOATS or tensor.parameters or not _fits(shape, len(data)):
            return request_from_document(decode_document(body), None)
        try:
            with np.errstate(over="raise"):
                array = np.array(data, NUMPY_DTYPES[datatype])
        except FloatingPointError:
            return request_from_document(decode_document(body), None)
        inputs.append(Tensor(tensor.name, datatype, array.reshape(shape)))
    parameters = plain.parameters
    return InferenceRequest(
        inputs,
        plain.id,
        parameters or {},
        None if not plain.outputs else requested_outputs(decode_document(body).outputs),
        binary_outputs=_wants_binary(parameters) if parameters else False,
    )


def _fits(shape: list[int], count: int) -> bool:
    product = 1
    for size in shape:
        if size < 0 or product > ELEMENTS_MAX:
            return False
        product *= size
    return product == count and len(shape) <= 8  # noqa: PLR2004  RANK_MAX, inlined on the hot path


def decode_document(body: bytes | memoryview) -> RequestDocument:
    """Decode the JSON part of a request without looking at the tensors' values.

    Raises:
        InvalidInferRequest: It is not JSON, or not a request of the protocol.
    """
    try:
        return _decode_any(body)
    except msgspec.ValidationError as fault:
        raise InvalidInferRequest("body", f"{fault}.", "See the Open Inference Protocol, POST infer.") from None
    except RecursionError:
        raise InvalidInferRequest("body", "is nested too deeply.") from None
    except _FAULTS as fault:
        raise InvalidInferRequest(
            "body",
            f"is not valid JSON ({str(fault)[:120]}).",
            "NaN and Infinity have no JSON form: send null for a missing value, or use binary tensors.",
        ) from None


def request_from_document(document: RequestDocument, tail: memoryview | None) -> InferenceRequest:
    """Turn a decoded document, and the binary tail behind it, into a request.

    Raises:
        InvalidInferRequest: A tensor is malformed or carries both or neither of data and binary data.
    """
    binary = BinaryTail(tail)
    inputs: list[Tensor] = []
    for index, tensor in enumerate(document.inputs):
        where = f"inputs[{index}]"
        parameters = tensor.parameters or {}
        if any(name.startswith(_SHARED_MEMORY) for name in parameters):
            raise InvalidInferRequest(
                f"{where}.parameters", "shared memory is not served.", "Send the data in the body."
            )
        size = parameters.get("binary_data_size")
        if size is not None:
            if tensor.data is not msgspec.UNSET:
                raise InvalidInferRequest(f"{where}.data", "stands beside binary_data_size.", "Send one of the two.")
            array = binary.take(size, tensor.datatype, tensor.shape, where)
        elif tensor.data is msgspec.UNSET:
            raise InvalidInferRequest(f"{where}.data", "is missing.", "Send data, or a binary tensor.")
        else:
            array = array_from_values(_values(tensor.data, where), tensor.datatype, tensor.shape, where)
        inputs.append(Tensor(tensor.name, tensor.datatype, array))
    binary.require_end()
    parameters = document.parameters or {}
    return InferenceRequest(
        inputs,
        document.id,
        parameters,
        requested_outputs(document.outputs),
        binary_outputs=_wants_binary(parameters),
    )


def _values(raw: msgspec.Raw, where: str) -> list[Any]:
    try:
        values = _decode_values(raw)
    except msgspec.ValidationError:
        raise InvalidInferRequest(f"{where}.data", "holds a number that no datatype can hold.") from None
    except RecursionError:
        raise InvalidInferRequest(f"{where}.data", "is nested too deeply.") from None
    except _FAULTS as fault:
        raise InvalidInferRequest(f"{where}.data", f"is not valid JSON ({str(fault)[:120]}).") from None
    if not isinstance(values, list):
        raise InvalidInferRequest(f"{where}.data", "is not a list.", "Send a flat row-major list.")
    return values


def requested_outputs(outputs: list[OutputDocument] | None) -> list[RequestedOutput] | None:
    """Read which outputs the caller wants, and in which form.

    Raises:
        InvalidInferRequest: An output's parameters are not understood.
    """
    if not outputs:
        return None
    wanted: list[RequestedOutput] = []
    for index, output in enumerate(outputs):
        parameters = output.parameters or {}
        if any(name.startswith(_SHARED_MEMORY) for name in parameters):
            raise InvalidInferRequest(f"outputs[{index}].parameters", "shared memory is not served.")
        binary = parameters.get("binary_data")
        if binary is not None and not isinstance(binary, bool):
            raise InvalidInferRequest(f"outputs[{index}].parameters.binary_data", "is not true or false.")
        wanted.append(RequestedOutput(output.name, binary))
    return wanted


def _wants_binary(parameters: dict[str, Any]) -> bool:
    wish = parameters.get("binary_data_output", False)
    if not isinstance(wish, bool):
        raise InvalidInferRequest("parameters.binary_data_output", "is not true or false.")
    return wish


def json_values(tensor: Tensor) -> Any:
    """Give a tensor's values in a form that orjson writes: flat, row-major, NaN as null.

    Raises:
        InvalidInferRequest: A BYTES element is not UTF-8, so it has no JSON form.
    """
    data = tensor.data
    if tensor.datatype == BYTES:
        try:
            return [value if isinstance(value, str) else value.decode() for value in data.ravel()]
        except UnicodeDecodeError:
            raise InvalidInferRequest(
                f"outputs.{tensor.name}",
                "holds bytes that are not UTF-8 text.",
                "Ask for it as a binary tensor.",
            ) from None
    if tensor.datatype == "FP16":
        return data.astype(np.float32).ravel()
    return np.ascontiguousarray(data).ravel()


def encode(answer: InferenceAnswer) -> bytes:
    """Encode an answer, every output as JSON."""
    document: dict[str, Any] = {"model_name": answer.model_name, "model_version": answer.model_version}
    if answer.id is not None:
        document["id"] = answer.id
    if answer.parameters:
        document["parameters"] = answer.parameters
    document["outputs"] = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.data.shape),
            "data": json_values(tensor),
        }
        for tensor in answer.outputs
    ]
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
