"""The gRPC server: statuses, deadlines, limits, reflection."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from clave_common.access import Access
from clave_common.access.model import RateLimit
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_contracts.inference_grpc import reflection_pb2
from clave_inference.rpc import ProtocolServer
from clave_testing.patience import PATIENCE_S, wait_until
from google.protobuf import descriptor_pb2

SERVICE = "/inference.GRPCInferenceService/"
KEY = [("authorization", "Bearer good")]


@pytest.fixture
def channel(server: Any) -> Iterator[grpc.Channel]:
    bench = server.bench
    rpc = ProtocolServer(
        loop=server.loop,
        predictions=bench.predictions,
        describe=bench.describe,
        verifier=bench.verifier,
        access=Access(bench.point),
        ready=lambda: True,
        message_bytes_max=100_000,
    )
    port = rpc.start("127.0.0.1:0")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    server.on_loop(lambda: rpc.stop(1.0))


def message(**changes: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=changes.get("model", "churn"), model_version=changes.get("version", ""))
    request.inputs.add(
        name=changes.get("name", "input"),
        datatype=changes.get("datatype", "FP32"),
        shape=changes.get("shape", [1, 4]),
    )
    request.raw_input_contents.append(changes.get("raw", np.ones(4, np.float32).tobytes()))
    return request


def infer(channel: grpc.Channel, request: Any, **options: Any) -> Any:
    method = channel.unary_unary(
        f"{SERVICE}ModelInfer",
        request_serializer=lambda sent: sent if isinstance(sent, bytes) else sent.SerializeToString(),
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    return method(request, metadata=KEY, timeout=options.pop("timeout", 5), **options)


def refusal(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("server", ["lane"], indirect=True)
@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [
        (message(shape=[1, 3]), "INVALID_ARGUMENT", "bytes"),
        (message(shape=[2**62, 4]), "INVALID_ARGUMENT", "elements"),
        (message(shape=[-1, 4]), "INVALID_ARGUMENT", "negative"),
        (message(shape=[1] * 100), "INVALID_ARGUMENT", "dimensions"),
        (message(shape=[0, 4], raw=b""), "INVALID_ARGUMENT", "rows"),
        (message(shape=[1, 5], raw=b"\0" * 20), "INVALID_ARGUMENT", "shape"),
        (message(datatype="FP31"), "INVALID_ARGUMENT", "FP31"),
        (message(datatype="INT32"), "INVALID_ARGUMENT", "INT32"),
        (message(name="other"), "INVALID_ARGUMENT", "other"),
        (message(raw=b"\0" * 15), "INVALID_ARGUMENT", "bytes"),
        (message(model="nope"), "NOT_FOUND", "nope"),
        (message(version="9"), "NOT_FOUND", "9"),
        (pb.ModelInferRequest(model_name="churn"), "INVALID_ARGUMENT", "inputs"),
        (b"\xff" * 40, "INVALID_ARGUMENT", "ModelInferRequest"),
        (message(shape=[50_000, 4], raw=b"\0" * 800_000), "RESOURCE_EXHAUSTED", "larger"),
    ],
)
def test_bad_calls_have_their_status_and_harm_nobody(
    server: Any, channel: Any, sent: Any, code: str, word: str
) -> None:
    error = refusal(lambda: infer(channel, sent))
    assert error.code().name == code
    assert word in error.details()
    assert infer(channel, message()).model_version == "1"


@pytest.mark.parametrize("server", ["lane"], indirect=True)
def test_a_used_up_limit_says_when_to_come_back(server: Any, channel: Any) -> None:
    server.bench.point.limit = RateLimit(per_minute=6.0, burst=1.0)
    infer(channel, message())
    error = refusal(lambda: [infer(channel, message()) for _ in range(3)])
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(error.trailing_metadata())
    assert trailers["clave-code"] == "rate_limited"
    assert int(trailers["retry-after"]) > 0
    assert b"google.rpc.RetryInfo" in trailers["grpc-status-details-bin"]


@pytest.mark.parametrize("server", ["lane"], indirect=True)
def test_a_deadline_that_passes_while_waiting_is_not_computed(server: Any, channel: Any) -> None:
    infer(channel, message())
    table = server.bench.deployment.table
    runs = table.versions[("churn", 1)].runs
    held, release = threading.Event(), threading.Event()
    server.loop.call_soon_threadsafe(lambda: (held.set(), release.wait(5)))
    assert held.wait(5)
    late = time.monotonic() + 0.3
    error = refusal(lambda: infer(channel, message(), timeout=0.1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: time.monotonic() > late, what="the deadline to be well past")
    release.set()
    infer(channel, message())
    assert table.versions[("churn", 1)].runs == runs + 1


@pytest.mark.parametrize("server", ["lane"], indirect=True)
def test_management_follows_policy_and_is_the_registrys(server: Any, channel: Any) -> None:
    load = channel.unary_unary(
        f"{SERVICE}RepositoryModelLoad", pb.RepositoryModelLoadRequest.SerializeToString, lambda data: data
    )
    request = pb.RepositoryModelLoadRequest(model_name="churn")
    error = refusal(lambda: load(request, metadata=KEY, timeout=PATIENCE_S))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "registry" in error.details()
    assert refusal(lambda: load(request, timeout=PATIENCE_S)).code() is grpc.StatusCode.UNAUTHENTICATED
    server.bench.point.allow = False
    assert refusal(lambda: load(request, metadata=KEY, timeout=PATIENCE_S)).code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("server", ["lane"], indirect=True)
@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_the_protocol(server: Any, channel: Any, version: str) -> None:
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = [
        {"list_services": "*"},
        {"file_containing_symbol": "inference.GRPCInferenceService.ModelInfer"},
        {"file_containing_symbol": "inference.ModelInferRequest"},
        {"file_by_filename": "nowhere.proto"},
    ]
    answers = list(
        ask(iter([reflection_pb2.ServerReflectionRequest(**question) for question in questions]), timeout=PATIENCE_S)
    )
    listed = {service.name for service in answers[0].list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} < listed
    for answer in answers[1:3]:
        file = descriptor_pb2.FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
        assert "ModelInfer" in [method.name for method in file.service[0].method]
    assert answers[3].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
