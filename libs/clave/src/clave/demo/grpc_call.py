"""One prediction over gRPC (Open Inference Protocol), on the same public port and with the same key as REST."""

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clave_contracts.inference import InferTensor
from clave_contracts.inference_grpc import open_inference_pb2 as messages
from clave_contracts.inference_grpc import open_inference_pb2_grpc as stubs

from clave.connection import Connection

if TYPE_CHECKING:
    import grpc

_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class GrpcAnswer:
    """What came back.

    Attributes:
        model_version: Which version answered.
        outputs: Name of each output and its shape.
        scores: First floating-point output, flat.
    """

    model_version: str
    outputs: dict[str, list[int]]
    scores: list[float]


async def infer_over_grpc(connection: Connection, *, model: str, tensor: InferTensor) -> GrpcAnswer:
    """Send one tensor of float32 and parse the answer, whose outputs come raw or typed."""
    request = messages.ModelInferRequest(model_name=model)
    sent = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    sent.contents.fp32_contents.extend(float("nan") if value is None else float(value) for value in tensor.data)
    async with _channel(connection) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]  # generated code
        answer = await stub.ModelInfer(
            request, metadata=(("authorization", f"Bearer {connection.api_key}"),), timeout=_TIMEOUT_S
        )
    return GrpcAnswer(
        model_version=answer.model_version,
        outputs={output.name: list(output.shape) for output in answer.outputs},
        scores=_scores(answer),
    )


def _channel(connection: Connection) -> "grpc.aio.Channel":
    import grpc  # noqa: PLC0415 - only the demo speaks gRPC

    if not connection.url.startswith("https:"):
        return grpc.aio.insecure_channel(connection.grpc)
    authorities = None if connection.ca_file is None else connection.ca_file.read_bytes()
    return grpc.aio.secure_channel(connection.grpc, grpc.ssl_channel_credentials(root_certificates=authorities))


def _scores(answer: "messages.ModelInferResponse") -> list[float]:
    for index, output in enumerate(answer.outputs):
        if output.datatype != "FP32":
            continue
        if answer.raw_output_contents:
            raw = answer.raw_output_contents[index]
            return list(struct.unpack(f"<{len(raw) // 4}f", raw))
        return list(output.contents.fp32_contents)
    return []
