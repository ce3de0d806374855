"""REST bodies in JSON: `/v2/models/{model}/infer` as people and most clients write it.

Ordinary requests (floating point tensors with flat data) take one pass of a typed decoder. Everything else (integers,
which must not pass through a float; booleans; strings; nested lists) takes a second, general pass; most faults are
worded there. `null` is a missing value and becomes NaN. The literals NaN and Infinity are not JSON and are refused.

Nothing here takes long, whatever was sent: values are counted before they are made, and parameters and outputs are
looked into only where they are of a bounded size.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import orjson

from clave_inference.codecs.binary_tail import BinaryTail
from clave_inference.domain.datatypes import BYTES, FLOATS, NUMPY_DTYPES
from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.domain.tensors import (
    ID_CHARACTERS_MAX,
    OUTPUTS_BYTES_MAX,
    PARAMETER_VALUES_MAX,
    PARAMETERS_BYTES_MAX,
    PARAMETERS_MAX,
    VALUES_MAX,
    InferenceAnswer,
    InferenceRequest,
    RequestedOutput,
    Tensor,
    array_from_values,
    count_elements,
    require_count,
    require_tensors,
)
from clave_inference.runtime.loaded_version import RowShape

_SHARED_MEMORY = "shared_memory_"
_LARGE_BYTES = 64 * 1024
_Unread = msgspec.Raw | msgspec.UnsetType


class PlainTensor(msgspec.Struct, gc=False):
    """A tensor of numbers with flat data; null is a missing value."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float | None]
    parameters: _Unread = msgspec.UNSET


class PlainRequest(msgspec.Struct, gc=False):
    """A request whose tensors are all plain."""

    inputs: list[PlainTensor] = []
    id: str | None = None
    parameters: _Unread = msgspec.UNSET
    outputs: _Unread = msgspec.UNSET


class TensorDocument(msgspec.Struct):
    """A tensor of any kind; its data wait for the datatype to be known."""

    name: str
    shape: list[int]
    datatype: str
    data: _Unread = msgspec.UNSET
    parameters: _Unread = msgspec.UNSET


class OutputDocument(msgspec.Struct):
    """An output as the caller asks for it."""

    name: str
    parameters: dict[str, Any] | None = None


class RequestDocument(msgspec.Struct):
    """The JSON part of any request."""

    inputs: list[TensorDocument] = []
    id: str | None = None
    parameters: _Unread = msgspec.UNSET
    outputs: _Unread = msgspec.UNSET


_decode_plain = msgspec.json.Decoder(PlainRequest).decode
_decode_any = msgspec.json.Decoder(RequestDocument).decode
_decode_values = msgspec.json.Decoder().decode
_decode_parameters = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_outputs = msgspec.json.Decoder(list[OutputDocument] | None).decode
_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_plain(body: bytes) -> PlainRequest | None:
    """Decode a small request of plain tensors; None where it is anything else, or faulty."""
    if len(body) > _LARGE_BYTES:
        return None
    try:
        return _decode_plain(body)
    except _FAULTS:
        return None


def is_plain_row(plain: PlainRequest, row: RowShape) -> bool:
    """Whether a request is ordinary: one row for the only input, every output wanted as JSON."""
    inputs = plain.inputs
    if len(inputs) != 1 or plain.parameters is not msgspec.UNSET or plain.outputs is not msgspec.UNSET:
        return False
    tensor = inputs[0]
    return (
        tensor.shape == row.shape
        and len(tensor.data) == row.width
        and tensor.name == row.name
        and tensor.datatype == row.datatype
        and tensor.parameters is msgspec.UNSET
        and (plain.id is None or len(plain.id) <= ID_CHARACTERS_MAX)
    )


def decode(body: bytes) -> InferenceRequest:
    """Decode a JSON request.

    Raises:
        InvalidInferRequest: The body is not JSON, or not a request of the protocol.
    """
    _require_few_values(body)
    try:
        plain = _decode_plain(body)
    except msgspec.ValidationError:
        return request_from_document(decode_document(body), None)
    except _FAULTS as fault:
        raise _malformed(fault) from None
    return request_from_plain(plain, body)


def _require_few_values(body: bytes | memoryview) -> None:
    """Count before anything is made: every value and every key but the first of its list stands behind a comma."""
    if len(body) > _LARGE_BYTES and _commas(body) > VALUES_MAX:
        raise InvalidInferRequest(
            "body",
            f"holds more than {VALUES_MAX} values.",
            "Split the rows over several requests, or send binary tensors.",
            limit=VALUES_MAX,
        )


def _commas(text: bytes | memoryview) -> int:
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord(",")))


def request_from_plain(plain: PlainRequest, body: bytes) -> InferenceRequest:
    """Turn a decoded plain request into arrays; `body` is where faults are looked for and worded.

    Raises:
        InvalidInferRequest: A tensor is malformed.
    """
    require_tensors(len(plain.inputs), "inputs")
    inputs: list[Tensor] = []
    for index, tensor in enumerate(plain.inputs):
        datatype, shape, data = tensor.datatype, tensor.shape, tensor.data
        if datatype not in FLOATS or tensor.parameters is not msgspec.UNSET:
            return request_from_document(decode_document(body), None)
        where = f"inputs[{index}]"
        require_count(len(data), count_elements(shape, where), shape, where)
        try:
            with np.errstate(over="raise"):
                array = np.array(data, NUMPY_DTYPES[datatype])
        except FloatingPointError:
            raise InvalidInferRequest(f"{where}.data", f"holds a number outside the range of {datatype}.") from None
        inputs.append(Tensor(tensor.name, datatype, array.reshape(shape)))
    return _request(inputs, plain)


def _request(inputs: list[Tensor], document: "PlainRequest | RequestDocument") -> InferenceRequest:
    if document.id is not None and len(document.id) > ID_CHARACTERS_MAX:
        raise InvalidInferRequest("id", f"is longer than {ID_CHARACTERS_MAX} characters.", limit=ID_CHARACTERS_MAX)
    parameters = _parameters(document.parameters, "parameters")
    return InferenceRequest(
        inputs,
        document.id,
        parameters,
        requested_outputs(document.outputs),
        binary_outputs=_wants_binary(parameters) if parameters else False,
    )


def decode_document(body: bytes | memoryview) -> RequestDocument:
    """Decode the JSON part of a request without looking at the tensors' values.

    Raises:
        InvalidInferRequest: It is not JSON, or not a request of the protocol.
    """
    _require_few_values(body)
    try:
        return _decode_any(body)
    except msgspec.ValidationError as fault:
        raise InvalidInferRequest("body", f"{fault}.", "See the Open Inference Protocol, POST infer.") from None
    except _FAULTS as fault:
        raise _malformed(fault) from None


def _malformed(fault: Exception) -> InvalidInferRequest:
    if isinstance(fault, RecursionError):
        return InvalidInferRequest("body", "is nested too deeply.")
    return InvalidInferRequest(
        "body",
        f"is not valid JSON ({str(fault)[:120]}).",
        "NaN and Infinity have no JSON form: send null for a missing value, or use binary tensors.",
    )


def request_from_document(document: RequestDocument, tail: memoryview | None) -> InferenceRequest:
    """Turn a decoded document, and the binary tail behind it, into a request.

    Raises:
        InvalidInferRequest: A tensor is malformed or carries both or neither of data and binary data.
    """
    require_tensors(len(document.inputs), "inputs")
    binary = BinaryTail(tail)
    inputs: list[Tensor] = []
    for index, tensor in enumerate(document.inputs):
        where = f"inputs[{index}]"
        parameters = _parameters(tensor.parameters, f"{where}.parameters")
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
    return _request(inputs, document)


def _parameters(raw: _Unread, where: str) -> dict[str, Any]:
    if raw is msgspec.UNSET:
        return {}
    parameters: dict[str, Any] = _bounded(raw, _decode_parameters, where, PARAMETERS_BYTES_MAX) or {}
    if len(parameters) > PARAMETERS_MAX:
        raise InvalidInferRequest(
            where, f"are {len(parameters)}, at most {PARAMETERS_MAX} are read.", limit=PARAMETERS_MAX
        )
    return parameters


def _bounded(raw: msgspec.Raw, decoded: Callable[[msgspec.Raw], Any], where: str, bytes_max: int) -> Any:
    """Decode a part of the document that is small wherever it makes sense."""
    text = memoryview(raw)
    if len(text) > bytes_max:
        raise InvalidInferRequest(where, f"take more than {bytes_max} bytes.", limit_bytes=bytes_max)
    if len(text) > _LARGE_BYTES and _commas(text) > PARAMETER_VALUES_MAX:
        raise InvalidInferRequest(
            where, f"hold more than {PARAMETER_VALUES_MAX} values.", "Split the rows over several requests."
        )
    try:
        return decoded(raw)
    except msgspec.ValidationError as fault:
        raise InvalidInferRequest(where, f"{fault}.", "See the Open Inference Protocol, POST infer.") from None
    except RecursionError:
        raise InvalidInferRequest(where, "are nested too deeply.") from None
    except _FAULTS as fault:
        raise InvalidInferRequest(where, f"are not valid JSON ({str(fault)[:120]}).") from None


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


def requested_outputs(raw: _Unread) -> list[RequestedOutput] | None:
    """Read which outputs the caller wants, and in which form.

    Raises:
        InvalidInferRequest: They are too many, or an output's parameters are not understood.
    """
    if raw is msgspec.UNSET:
        return None
    outputs: list[OutputDocument] | None = _bounded(raw, _decode_outputs, "outputs", OUTPUTS_BYTES_MAX)
    if not outputs:
        return None
    require_tensors(len(outputs), "outputs")
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
