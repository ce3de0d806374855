"""REST bodies with the binary tensor extension: a JSON part, then the tensors' bytes in order.

The header ``Inference-Header-Content-Length`` gives the length of the JSON part. JSON and binary tensors may mix in one
body. Source: triton-inference-server, docs/protocol/extension_binary_data.md.
"""

from typing import Any

import orjson

from clave_inference.codecs import rest_json
from clave_inference.domain.tensors import (
    InferenceAnswer,
    InferenceRequest,
    bytes_from_array,
)


def decode(body: bytes, header_length: int) -> InferenceRequest:
    """Decode a request whose JSON part is `header_length` bytes long.

    Raises:
        InvalidInferRequest: The parts do not make up a request of the protocol.
    """
    view = memoryview(body)
    return rest_json.request_from_document(rest_json.decode_document(view[:header_length]), view[header_length:])


def encode(answer: InferenceAnswer, *, binary: set[str]) -> tuple[bytes, int]:
    """Encode an answer with the named outputs as binary tensors.

    Returns:
        The body, and the length of its JSON part.
    """
    document: dict[str, Any] = {"model_name": answer.model_name, "model_version": answer.model_version}
    if answer.id is not None:
        document["id"] = answer.id
    if answer.parameters:
        document["parameters"] = answer.parameters
    tail: list[bytes] = []
    outputs: list[dict[str, Any]] = []
    for tensor in answer.outputs:
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.data.shape),
        }
        if tensor.name in binary:
            raw = bytes_from_array(tensor)
            output["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            output["data"] = rest_json.json_values(tensor)
        outputs.append(output)
    document["outputs"] = outputs
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([head, *tail]), len(head)
