"""gRPC server reflection: tells tools such as grpcurl which services there are and what their messages look like.

The schemas are public (the Open Inference Protocol's), so no credential is asked. Each open stream holds a thread of
the server; only a few are held at once.
"""

import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

import grpc
from clave_contracts.inference_grpc import health_pb2, open_inference_pb2
from clave_contracts.inference_grpc import reflection_pb2 as pb

SERVICES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_METHOD: Final = "ServerReflectionInfo"
_STREAMS_MAX: Final = 2
_QUESTIONS_MAX: Final = 1_000
_FILES: Final = {file.name: file for file in (open_inference_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, pb.DESCRIPTOR)}


class Reflection:
    """Answers for a server.

    Args:
        services: Full names of its services, besides reflection itself.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = (*services, *SERVICES)
        self._streams = threading.BoundedSemaphore(_STREAMS_MAX)

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """Give the method of both versions of the service."""
        return {
            _METHOD: grpc.stream_stream_rpc_method_handler(
                self._converse,
                request_deserializer=pb.ServerReflectionRequest.FromString,
                response_serializer=pb.ServerReflectionResponse.SerializeToString,
            )
        }

    def _converse(self, questions: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        if not self._streams.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"At most {_STREAMS_MAX} reflection streams at once.")
        try:
            for number, question in enumerate(questions):
                if number >= _QUESTIONS_MAX:
                    return
                yield self.answer(question)
        finally:
            self._streams.release()

    def answer(self, question: Any) -> Any:
        """Answer one question."""
        reply = pb.ServerReflectionResponse(valid_host=question.host, original_request=question)
        kind = question.WhichOneof("message_request")
        if kind == "list_services":
            reply.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in self._services)
            return reply
        file = None
        if kind == "file_by_filename":
            file = _FILES.get(question.file_by_filename)
        elif kind == "file_containing_symbol":
            file = _file_of(question.file_containing_symbol)
        if file is None:
            reply.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
            reply.error_response.error_message = "There is no such file, symbol or extension here."
        else:
            reply.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        return reply


def _file_of(symbol: str) -> Any:
    """Find the file that defines a service, method, message or enum."""
    symbol = symbol.replace("grpc.reflection.v1alpha.", "grpc.reflection.v1.", 1)
    for file in _FILES.values():
        prefix = f"{file.package}."
        head = symbol.removeprefix(prefix).partition(".")[0]
        if symbol.startswith(prefix) and any(
            head in names for names in (file.services_by_name, file.message_types_by_name, file.enum_types_by_name)
        ):
            return file
    return None
