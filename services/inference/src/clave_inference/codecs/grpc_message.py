"""gRPC messages: `ModelInferRequest` and `ModelInferResponse` with raw or typed contents.

Raw contents hold every tensor or none. Answers are raw when the request was (or asked for nothing in particular),
typed when the request was typed, as Triton answers.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from google.protobuf.message import DecodeError

from clave_inference.codecs.grpc_bounds import require_bounded
from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.domain.tensors import (
    PARAMETERS_MAX,
    VALUES_MAX,
    InferenceAnswer,
    InferenceRequest,
    RequestedOutput,
    Tensor,
    array_from_bytes,
    array_from_values,
    bytes_from_array,
    count_elements,
    require_count,
    require_tensors,
)

_CONTENTS_FIELD = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_ALL_CONTENTS = frozenset(_CONTENTS_FIELD.values())


def parse(body: bytes) -> pb.ModelInferRequest:
    """Read the message, without looking at its tensors.

    Raises:
        InvalidInferRequest: The bytes are no `ModelInferRequest`, or one of too many parts.
    """
    require_bounded(body)
    try:
        message: pb.ModelInferRequest = pb.ModelInferRequest.FromString(body)
    except DecodeError:
        raise InvalidInferRequest("message", "is not a ModelInferRequest.") from None
    return message


def request_of(message: pb.ModelInferRequest) -> InferenceRequest:
    """Decode a message's tensors and parameters.

    Raises:
        InvalidInferRequest: A tensor is malformed.
    """
    require_tensors(len(message.inputs), "inputs")
    require_tensors(len(message.outputs), "outputs")
    if len(message.parameters) > PARAMETERS_MAX:
        raise InvalidInferRequest(
            "parameters", f"are {len(message.parameters)}, at most {PARAMETERS_MAX} are read.", limit=PARAMETERS_MAX
        )
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInferRequest(
            "raw_input_contents",
            f"has {len(raw)} tensors for {len(message.inputs)} inputs.",
            "Send raw contents for every input, in order, or for none.",
        )
    inputs: list[Tensor] = []
    for index, tensor in enumerate(message.inputs):
        where = f"inputs[{index}]"
        if tensor.parameters and any(name.startswith("shared_memory_") for name in tensor.parameters):
            raise InvalidInferRequest(f"{where}.parameters", "shared memory is not served.")
        shape = list(tensor.shape)
        if raw:
            if tensor.HasField("contents") and tensor.contents.ByteSize():
                raise InvalidInferRequest(f"{where}.contents", "stands beside raw_input_contents.", "Send one.")
            array = array_from_bytes(raw[index], tensor.datatype, shape, where)
        else:
            array = array_from_values(_typed(tensor, shape, where), tensor.datatype, shape, where)
        inputs.append(Tensor(tensor.name, tensor.datatype, array))
    return InferenceRequest(
        inputs,
        message.id or None,
        decode_parameters(message.parameters) if message.parameters else {},
        [RequestedOutput(output.name) for output in message.outputs] or None,
        raw_outputs=bool(raw) or not message.inputs,
    )


def _typed(tensor: pb.ModelInferRequest.InferInputTensor, shape: list[int], where: str) -> list[Any]:
    wanted = _CONTENTS_FIELD.get(tensor.datatype)
    if wanted is None:
        raise InvalidInferRequest(
            f"{where}.datatype",
            f"'{tensor.datatype[:40]}' has no typed contents.",
            "Send FP16 as raw contents; see the protocol for the datatypes.",
        )
    others = {field.name for field, _ in tensor.contents.ListFields()} & (_ALL_CONTENTS - {wanted})
    if others:
        raise InvalidInferRequest(
            f"{where}.contents", f"fills {min(others)} where {tensor.datatype} belongs into {wanted}."
        )
    values = getattr(tensor.contents, wanted)
    require_count(len(values), count_elements(shape, where), shape, where)
    if len(values) > VALUES_MAX:
        raise InvalidInferRequest(
            f"{where}.contents", f"hold more than {VALUES_MAX} values.", "Send raw_input_contents.", limit=VALUES_MAX
        )
    return list(values)


def decode_parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Read parameters; a string that is a JSON object (``entities``) stays a string until its reader parses it."""
    read: dict[str, Any] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            read[name] = getattr(parameter, choice)
    return read


def encode_parameters(values: Mapping[str, Any], target: Any) -> None:
    """Write parameters into a message's map; structured values become JSON text."""
    for name, value in values.items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int):
            target[name].int64_param = value
        elif isinstance(value, float):
            target[name].double_param = value
        elif isinstance(value, str):
            target[name].string_param = value
        else:
            target[name].string_param = orjson.dumps(value).decode()


def encode(answer: InferenceAnswer, *, raw: bool) -> bytes:
    """Encode an answer as a `ModelInferResponse`.

    Raises:
        InvalidInferRequest: Typed contents were asked for a datatype that has none.
    """
    message = pb.ModelInferResponse(
        model_name=answer.model_name, model_version=answer.model_version, id=answer.id or ""
    )
    if answer.parameters:
        encode_parameters(answer.parameters, message.parameters)
    raw = raw or any(tensor.datatype not in _CONTENTS_FIELD for tensor in answer.outputs)
    for tensor in answer.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)
        if raw:
            message.raw_output_contents.append(bytes_from_array(tensor))
            continue
        values = tensor.data.ravel().tolist()
        if tensor.datatype == "BYTES":
            values = [value.encode() if isinstance(value, str) else value for value in values]
        getattr(output.contents, _CONTENTS_FIELD[tensor.datatype]).extend(values)
    encoded: bytes = message.SerializeToString()
    return encoded
