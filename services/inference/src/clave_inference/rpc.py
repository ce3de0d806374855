"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`, `grpc.health.v1.Health` and reflection.

A plain synchronous server on a small thread pool: measured against grpc.aio, it needs a third less CPU per call. A call
hops to the event loop, where the same operation as under REST answers it. The fast way for gRPC is Envoy's bridge to
the HTTP route (`http_answers.BRIDGE_PATH`); this port serves everything without an edge.
"""

import asyncio
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import grpc
from clave_common.access import Access
from clave_common.access.grpc_door import (
    OPEN_METHOD,
    AccessInterceptor,
    GrpcMethod,
    caller_of_call,
    presented_by,
    require_governed_methods,
)
from clave_common.access.verification import CredentialVerifier
from clave_common.errors import ClaveError, DeadlineExceeded
from clave_common.grpc_status import abort_with
from clave_common.logs import get_logger
from clave_common.mutual_tls import MutualTls
from clave_contracts.inference_grpc import health_pb2 as health
from clave_contracts.inference_grpc import open_inference_pb2 as pb

from clave_inference import __version__
from clave_inference.domain.trace import trace_of
from clave_inference.reflection import SERVICES as REFLECTION_SERVICES
from clave_inference.reflection import Reflection
from clave_inference.services.admissions import Credential
from clave_inference.services.call import Call, Reply
from clave_inference.services.describe import EXTENSIONS, PLATFORM, SERVER_NAME, Describe, ManagedByRegistry
from clave_inference.services.predict import Predictions
from clave_inference.services.refusals import as_refusal

_log = get_logger(__name__)
_SERVICE: Final = "inference.GRPCInferenceService"
_HEALTH: Final = "grpc.health.v1.Health"
_READ: Final = "inference:deployment.read"
_CALLS_MAX: Final = 1_024  # in threads and waiting for one; beyond, gRPC answers RESOURCE_EXHAUSTED
_CALL_S_MAX: Final = 30.0
_GRACE_OF_WAIT_S: Final = 0.5


def _named(message: Any) -> str:
    name = getattr(message, "name", "") or getattr(message, "model_name", "")
    return f"endpoints/{name}" if name else "endpoints"


METHODS: Final = {
    **{f"/{name}/ServerReflectionInfo": OPEN_METHOD for name in REFLECTION_SERVICES},
    f"/{_HEALTH}/Check": OPEN_METHOD,
    f"/{_SERVICE}/ServerLive": OPEN_METHOD,
    f"/{_SERVICE}/ServerReady": OPEN_METHOD,
    f"/{_SERVICE}/ModelInfer": GrpcMethod("inference:predict", in_operation=True),
    **{
        f"/{_SERVICE}/{name}": GrpcMethod(_READ, _named)
        for name in (
            "ModelReady",
            "ServerMetadata",
            "ModelMetadata",
            "ModelConfig",
            "ModelStatistics",
            "RepositoryIndex",
            "RepositoryModelLoad",
            "RepositoryModelUnload",
        )
    },
}
"""What each method asks of the policy; a method that is not here does not start."""


class ProtocolServer:
    """The gRPC server of one process.

    Args:
        loop: Where operations run.
        ready: Whether the process is ready.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        predictions: Predictions,
        describe: Describe,
        verifier: CredentialVerifier,
        access: Access,
        ready: Callable[[], bool],
        message_bytes_max: int,
        threads: int = 10,
    ) -> None:
        self._loop = loop
        self._predictions = predictions
        self._describe = describe
        self._ready = ready
        services = {_SERVICE: self._methods(), _HEALTH: self._health_methods()}
        reflection = Reflection((_SERVICE, _HEALTH)).handlers()
        services.update({name: dict(reflection) for name in REFLECTION_SERVICES})
        require_governed_methods(services, METHODS)
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
            interceptors=[AccessInterceptor(METHODS, loop=loop, verifier=verifier, access=access)],
            maximum_concurrent_rpcs=_CALLS_MAX,
            options=[
                ("grpc.max_receive_message_length", message_bytes_max),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),
            ],
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items()]
        )

    def start(self, address: str, tls: MutualTls | None = None) -> int:
        """Listen, with mutual TLS where it is given; gives the port."""
        if tls is None:
            port = int(self._server.add_insecure_port(address))
        else:
            port = int(self._server.add_secure_port(address, tls.grpc_credentials()))
        self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, finish those in flight."""
        event = self._server.stop(grace_s)
        await asyncio.to_thread(event.wait, grace_s + 1.0)

    def _methods(self) -> dict[str, grpc.RpcMethodHandler]:
        unary = grpc.unary_unary_rpc_method_handler

        def open_method(answer: Callable[[Any], Any], request: Any) -> grpc.RpcMethodHandler:
            return unary(
                lambda message, _context: answer(message),
                request_deserializer=request.FromString,
                response_serializer=lambda reply: reply.SerializeToString(),
            )

        def read_method(answer: Callable[[Any], Any], request: Any) -> grpc.RpcMethodHandler:
            return unary(
                partial(self._read, answer),
                request_deserializer=request.FromString,
                response_serializer=lambda reply: reply.SerializeToString(),
            )

        return {
            "ServerLive": open_method(lambda _: pb.ServerLiveResponse(live=True), pb.ServerLiveRequest),
            "ServerReady": open_method(lambda _: pb.ServerReadyResponse(ready=self._ready()), pb.ServerReadyRequest),
            "ModelInfer": unary(self._infer, request_deserializer=None, response_serializer=None),
            "ModelReady": read_method(
                lambda m: pb.ModelReadyResponse(ready=self._described().ready(m.name, m.version or None)),
                pb.ModelReadyRequest,
            ),
            "ServerMetadata": read_method(
                lambda _: pb.ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS),
                pb.ServerMetadataRequest,
            ),
            "ModelMetadata": read_method(self._metadata, pb.ModelMetadataRequest),
            "ModelConfig": read_method(self._config, pb.ModelConfigRequest),
            "ModelStatistics": read_method(self._statistics, pb.ModelStatisticsRequest),
            "RepositoryIndex": read_method(self._index, pb.RepositoryIndexRequest),
            "RepositoryModelLoad": read_method(_refuse_management, pb.RepositoryModelLoadRequest),
            "RepositoryModelUnload": read_method(_refuse_management, pb.RepositoryModelUnloadRequest),
        }

    def _health_methods(self) -> dict[str, grpc.RpcMethodHandler]:
        def check(request: Any, _context: grpc.ServicerContext) -> Any:
            if request.service not in {"", _SERVICE}:
                return health.HealthCheckResponse(status=health.HealthCheckResponse.SERVICE_UNKNOWN)
            status = health.HealthCheckResponse.SERVING if self._ready() else health.HealthCheckResponse.NOT_SERVING
            return health.HealthCheckResponse(status=status)

        return {
            "Check": grpc.unary_unary_rpc_method_handler(
                check,
                request_deserializer=health.HealthCheckRequest.FromString,
                response_serializer=health.HealthCheckResponse.SerializeToString,
            )
        }

    def _infer(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            left_s, metadata = context.time_remaining(), _metadata(context)
            call = Call(
                "grpc",
                "",
                None,
                _credential(context),
                began=time.monotonic(),
                body=body,
                routing_key=metadata.get("x-routing-key"),
                trace=trace_of(metadata.get("traceparent"), metadata.get("tracestate")),
                deadline=None if left_s is None else time.monotonic() + left_s,
            )
            replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
            self._loop.call_soon_threadsafe(self._predictions.predict, call, replies.put)
            wait_s = _CALL_S_MAX if left_s is None else min(_CALL_S_MAX, left_s + _GRACE_OF_WAIT_S)
            try:
                reply = replies.get(timeout=wait_s)
            except queue.Empty:
                raise DeadlineExceeded("The call's deadline passed before there was an answer.") from None
        except ClaveError as refusal:
            reply = Reply(error=refusal)
        if reply.error is not None:
            abort_with(context, reply.error)
        return reply.body

    def _described(self) -> Describe:
        """What the caller of the running call may know of."""
        return self._describe.seen_by(caller_of_call())

    def _read(self, answer: Callable[[Any], Any], message: Any, context: grpc.ServicerContext) -> Any:
        try:
            return answer(message)
        except Exception as error:  # noqa: BLE001  entry point
            abort_with(context, as_refusal(error, model=""))

    def _metadata(self, message: Any) -> Any:
        document = self._described().metadata(message.name, message.version or None)
        return pb.ModelMetadataResponse(
            name=document["name"],
            versions=document["versions"],
            platform=PLATFORM,
            inputs=[pb.ModelMetadataResponse.TensorMetadata(**spec) for spec in document["inputs"]],
            outputs=[pb.ModelMetadataResponse.TensorMetadata(**spec) for spec in document["outputs"]],
        )

    def _config(self, message: Any) -> Any:
        document = self._described().config(message.name, message.version or None)
        return pb.ModelConfigResponse(
            config=pb.ModelConfig(
                name=document["name"],
                platform=document["platform"],
                backend=document["backend"],
                max_batch_size=document["max_batch_size"],
                input=[pb.ModelInput(**spec) for spec in document["input"]],
                output=[pb.ModelOutput(**spec) for spec in document["output"]],
            )
        )

    def _statistics(self, message: Any) -> Any:
        rows = self._described().statistics(message.name or None, message.version or None)
        return pb.ModelStatisticsResponse(
            model_stats=[
                pb.ModelStatistics(
                    name=row["name"],
                    version=row["version"],
                    inference_count=row["inference_count"],
                    execution_count=row["execution_count"],
                    inference_stats=pb.InferStatistics(
                        success=pb.StatisticDuration(**row["inference_stats"]["success"]),
                        fail=pb.StatisticDuration(**row["inference_stats"]["fail"]),
                    ),
                )
                for row in rows
            ]
        )

    def _index(self, message: Any) -> Any:
        rows = [row for row in self._described().index() if row["state"] == "READY" or not message.ready]
        return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**row) for row in rows])


def _refuse_management(message: Any) -> Any:
    raise ManagedByRegistry(message.model_name)


def _metadata(context: grpc.ServicerContext) -> dict[str, Any]:
    return dict(context.invocation_metadata())


def _credential(context: grpc.ServicerContext) -> Credential:
    presented = presented_by(context)
    authorization = presented.authorization
    return Credential(
        None if authorization is None else authorization.encode("latin-1", "replace"),
        presented.source_ip,
        presented.on_behalf_of,
        claimed_ip=presented.claimed_ip,
        edge_proof=presented.edge_proof,
    )
