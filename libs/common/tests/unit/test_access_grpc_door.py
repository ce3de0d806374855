"""No gRPC method answers before the policy has, and one that declares nothing does not start."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from clave_common.access.enforcement import Access
from clave_common.access.grpc_door import (
    OPEN_METHOD,
    AccessInterceptor,
    GrpcMethod,
    peer_address,
    require_governed_methods,
)
from clave_common.access.model import Caller, Decision, Resource
from clave_common.access.routes import UngovernedRoute
from clave_common.access.verification import Presented
from clave_common.errors import Unauthenticated, Unavailable
from clave_common.grpc_status import retry_status
from clave_testing.patience import PATIENCE_S

DECLARED = {
    "/t.T/Open": OPEN_METHOD,
    "/t.T/Read": GrpcMethod("drift:report.read", lambda message: f"endpoints/{message.decode()}"),
    "/t.T/Own": GrpcMethod("inference:predict", in_operation=True),
}


def unary(message: bytes, _context: grpc.ServicerContext) -> bytes:
    return b"answered " + message


HANDLERS = {name: grpc.unary_unary_rpc_method_handler(unary) for name in ("Open", "Read", "Own", "Forgotten")}


class Verifier:
    """Knows one credential."""

    async def verify(self, presented: Presented) -> Caller | None:
        if presented.authorization is None:
            return None
        if presented.authorization != "Bearer good":
            raise Unauthenticated("no")
        return Caller("user:a", "user", "acme", "api_key", 2e9, source_ip=presented.source_ip)


class Point:
    """Allows what it is told to."""

    asked: list[tuple[str, Resource]]

    def __init__(self) -> None:
        self.asked = []
        self.failure: Exception | None = None

    async def visible(self, caller: Caller, action: str) -> list[Mapping[str, Any]]:
        return [{"tenant": None, "namespaces": ["*"], "resources": ["**"]}]

    async def decide(self, caller: Caller, action: str, resource: Resource, context: Mapping[str, Any]) -> Decision:
        if self.failure is not None:
            raise self.failure
        self.asked.append((action, resource))
        allow = resource.id.endswith("/churn")
        return Decision(allow, () if allow else ("no_grant",), "v", "dec_1", "fake")


Call = Callable[..., bytes]


@pytest.fixture
async def door() -> AsyncIterator[tuple[Point, Callable[..., Any]]]:
    point = Point()
    interceptor = AccessInterceptor(
        DECLARED, loop=asyncio.get_running_loop(), verifier=Verifier(), access=Access(point)
    )
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[interceptor])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", HANDLERS)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    async def call(method: str, message: bytes, *metadata: tuple[str, str]) -> bytes:
        rpc = channel.unary_unary(f"/t.T/{method}")
        answer: bytes = await asyncio.to_thread(rpc, message, metadata=metadata, timeout=PATIENCE_S)
        return answer

    yield point, call
    channel.close()
    await asyncio.to_thread(server.stop(0).wait)


GOOD = ("authorization", "Bearer good")


async def test_a_governed_method_answers_after_the_policy_allowed(door: Any) -> None:
    point, call = door
    assert await call("Read", b"churn", GOOD) == b"answered churn"
    assert [(action, resource.id, resource.properties) for action, resource in point.asked] == [
        ("drift:report.read", "endpoints/churn", {"tenant": "acme"})
    ]


@pytest.mark.parametrize(
    ("message", "metadata", "code"),
    [
        (b"churn", [], "UNAUTHENTICATED"),
        (b"churn", [("authorization", "Bearer bad")], "UNAUTHENTICATED"),
        (b"churn", [GOOD, GOOD], "UNAUTHENTICATED"),
        (b"fraud", [GOOD], "PERMISSION_DENIED"),
    ],
)
async def test_a_governed_method_refuses(door: Any, message: bytes, metadata: Any, code: str) -> None:
    _, call = door
    with pytest.raises(grpc.RpcError) as refusal:
        await call("Read", message, *metadata)
    assert refusal.value.code().name == code


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Unavailable("dead", retry_after_s=1.5), "UNAVAILABLE"), (RuntimeError("a bug"), "INTERNAL")],
)
async def test_no_decision_is_a_refusal(door: Any, failure: Exception, code: str) -> None:
    point, call = door
    point.failure = failure
    with pytest.raises(grpc.RpcError) as refusal:
        await call("Read", b"churn", GOOD)
    assert refusal.value.code().name == code
    assert "a bug" not in refusal.value.details()


async def test_open_methods_and_those_that_decide_themselves_reach_their_handler(door: Any) -> None:
    point, call = door
    assert await call("Open", b"x") == b"answered x"
    assert await call("Own", b"x") == b"answered x"
    assert point.asked == []


async def test_a_method_that_slipped_past_the_start_still_does_not_answer(door: Any) -> None:
    _, call = door
    with pytest.raises(grpc.RpcError) as refusal:
        await call("Forgotten", b"x", GOOD)
    assert refusal.value.code() is grpc.StatusCode.INTERNAL


def test_a_server_with_an_undeclared_method_does_not_start() -> None:
    with pytest.raises(UngovernedRoute, match=r"/t\.T/Forgotten"):
        require_governed_methods({"t.T": HANDLERS}, DECLARED)


def test_a_stream_cannot_be_governed_before_its_operation() -> None:
    streams = {"Read": grpc.unary_stream_rpc_method_handler(lambda _m, _c: iter(()))}
    with pytest.raises(UngovernedRoute, match="streams"):
        require_governed_methods({"t.T": streams}, DECLARED)


def test_a_wait_is_told_as_googles_retry_info() -> None:
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.duration_pb2 import Duration

    encoded = retry_status(8, "used up", 1.25)
    assert encoded.startswith(b"\x08\x08\x12\x07used up\x1a")
    packed = AnyMessage.FromString(encoded[len(b"\x08\x08\x12\x07used up\x1a") + 1 :])
    assert packed.type_url == "type.googleapis.com/google.rpc.RetryInfo"
    delay = Duration.FromString(packed.value[2:])
    assert (delay.seconds, delay.nanos) == (1, 250_000_000)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.1.2.3:50", "10.1.2.3"),
        ("ipv6:[::1]:50", "::1"),
        ("ipv6:%5B::1%5D:50", "::1"),
        ("unix:/tmp/x", None),
    ],
)
def test_the_peers_address_is_read_out_of_grpcs_form(peer: str, address: str | None) -> None:
    assert peer_address(peer) == address
