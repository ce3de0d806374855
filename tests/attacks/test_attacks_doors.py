"""Attacks at the doors that the gateway's own attack tests do not try: gRPC, odd requests, shapes, logs.

`services/gateway/tests/integration/test_gateway_attacks.py` holds routes without credentials, forged tokens, traversal,
smuggling, odd bodies and mass assignment over REST; nothing of it is repeated here.
"""

import base64
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import httpx
import numpy as np
import pytest
from clave_common.access.service_tokens import ServiceTokenMinter
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.patience import PATIENCE_S
from clave_testing.stack import Stack

pytestmark = pytest.mark.stack
SERVICE = "/inference.GRPCInferenceService/"
OPEN = {"ServerLive", "ServerReady"}
METHODS = sorted(method.name for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)


def doors(stack: Stack) -> tuple[str, str]:
    """The public port and inference's own gRPC port."""
    return stack.grpc, stack.services["inference"]["grpc"]


def call(address: str, method: str, message: bytes, *metadata: tuple[str, str]) -> grpc.StatusCode:
    with grpc.insecure_channel(address) as channel:
        try:
            if "Stream" in method:
                list(channel.stream_stream(SERVICE + method)(iter([message]), metadata=metadata, timeout=PATIENCE_S))
            else:
                channel.unary_unary(SERVICE + method)(message, metadata=metadata, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def forged_tokens(stack: Stack) -> dict[str, str]:
    minter = ServiceTokenMinter.from_file("trainer", stack.data_dir / "secrets" / "trainer.pem")
    other = minter.token("registry")
    _, claims, signature = minter.token("inference").split(".")
    return {
        "another audience": other,
        "no algorithm": ".".join([b64({"alg": "none", "kid": "trainer"}), claims, ""]),
        "hmac": ".".join([b64({"alg": "HS256", "kid": "trainer"}), claims, signature]),
        "another kid": ".".join([b64({"alg": "Ed25519", "kid": "registry"}), claims, signature]),
        "kid is a path": ".".join([b64({"alg": "Ed25519", "kid": "../../../dev/null"}), claims, signature]),
        "kid is sql": ".".join([b64({"alg": "Ed25519", "kid": "x' or '1'='1"}), claims, signature]),
        "jku": ".".join([b64({"alg": "Ed25519", "kid": "x", "jku": "http://127.0.0.1/jwks"}), claims, signature]),
        "crit": ".".join([b64({"alg": "Ed25519", "kid": "trainer", "crit": ["x"], "x": 1}), claims, signature]),
        "key of nobody": stack.admin_key[:-12] + "0" * 12,
    }


class TestGrpc:
    @pytest.mark.parametrize("method", METHODS)
    def test_no_method_answers_without_a_credential(self, stack: Stack, method: str) -> None:
        spoofed = (("x-clave-principal", "user:admin"), ("x-forwarded-user", "admin"))
        for address in doors(stack):
            for metadata in ((), spoofed):
                status = call(address, method, b"", *metadata)
                if method in OPEN:
                    assert status is grpc.StatusCode.OK
                else:
                    assert status in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}, (address, status)

    def test_no_forged_credential_opens_a_method(self, stack: Stack) -> None:
        asked = pb.ModelInferRequest(model_name="any").SerializeToString()
        for address in doors(stack):
            for name, token in forged_tokens(stack).items():
                for method, message in (("ModelInfer", asked), ("ServerMetadata", b"")):
                    status = call(address, method, message, ("authorization", f"Bearer {token}"))
                    assert status is grpc.StatusCode.UNAUTHENTICATED, (address, name, method, status)

    def test_unknown_services_and_methods_are_unimplemented(self, stack: Stack) -> None:
        for address in doors(stack):
            for path in (
                SERVICE + "Nothing",
                "/inference.Other/ModelInfer",
                "/a/b",
                "/grpc.channelz.v1.Channelz/GetServers",
            ):
                with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary(path)(b"", timeout=PATIENCE_S)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, (address, path)

    @pytest.mark.parametrize(
        "content", [b"\xff" * 100, b"\x08\x96\x01" * 1000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 500]
    )
    def test_messages_that_are_none_are_refused(self, stack: Stack, content: bytes) -> None:
        for address in doors(stack):
            status = call(address, "ModelInfer", content, ("authorization", stack.headers["authorization"]))
            assert status not in {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}, address


def test_mlflows_other_prefixes_want_a_credential_too(stack: Stack) -> None:
    """Attack 3: the same handlers answer under prefixes that no document lists."""
    registry = stack.services["registry"]["http"]
    document = httpx.get(f"{registry}/api/registry/v1/openapi.json", timeout=PATIENCE_S).json()
    paths = [
        (method.upper(), re.sub(r"{[^}]+}", "1", path))
        for path, operations in document["paths"].items()
        if path.startswith("/api/2.0/mlflow")
        for method in operations
    ]
    assert len(paths) > 40
    with httpx.Client(timeout=PATIENCE_S) as client:
        for method, path in paths:
            for other in ("/ajax-api/2.0", "/api/3.0"):
                concrete = path.replace("/api/2.0", other, 1)
                for base in (stack.url, registry):
                    answer = client.request(method, base + concrete)
                    assert answer.status_code in {401, 404, 405}, (method, concrete, answer.status_code)


@pytest.fixture
def edge_socket(stack: Stack) -> Iterator[socket.socket]:
    parts = urlsplit(stack.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S) as connection:
        yield connection


class TestEdge:
    @pytest.mark.parametrize(
        "raw",
        [
            b"GET /v2 HTTP/1.1\r\nhost: evil.example\r\n\r\n",
            b"GET http://169.254.169.254/latest HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            b"GET /api/registryx HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            b"GET /api/registry/%2e%2e%2f%2e%2e/metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            b"GET /api/registry/../../metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            b"GET /v2%5c..%5cmetrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\nx_clave_edge: a\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"x-a: b\r\n" * 150 + b"\r\n",
            b"GET /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: " + b"b" * 40_000 + b"\r\n\r\n",
        ],
        ids=[
            "foreign host",
            "absolute",
            "longer prefix",
            "metrics",
            "escaped",
            "dots",
            "backslash",
            "underscore",
            "many",
            "long",
        ],
    )
    def test_what_leads_elsewhere_or_is_too_much_is_refused(self, edge_socket: socket.socket, raw: bytes) -> None:
        edge_socket.sendall(raw)
        status = edge_socket.recv(4096).split(b" ")[1]
        assert status in {b"400", b"404", b"431"}


class TestShapes:
    @pytest.mark.parametrize(
        "tensor",
        [
            {"shape": [2**31, 2**31], "data": [1.0]},
            {"shape": [-1, 4], "data": [1.0]},
            {"shape": [2**62, 4], "data": []},
            {"shape": [1, 4], "data": [1.0]},
            {"shape": [1] * 64, "data": [1.0]},
            {"shape": [1, 1], "data": ["1' or '1'='1"]},
            {"shape": [1e400, 1], "data": [1.0]},
        ],
    )
    def test_shapes_that_lie_are_refused_before_anything_is_allocated(self, stack: Stack, tensor: dict) -> None:
        body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", **tensor}]}).replace("Infinity", "1e400")
        for base in (stack.url, stack.services["inference"]["http"]):
            began = time.monotonic()
            answer = httpx.post(f"{base}/v2/models/any/infer", content=body, headers=stack.headers, timeout=PATIENCE_S)
            assert 400 <= answer.status_code < 500, answer.text
            assert time.monotonic() - began < 5

    def test_the_same_lies_over_grpc(self, stack: Stack) -> None:
        metadata = ("authorization", stack.headers["authorization"])
        for shape in ([2**31, 2**31], [-1, 4], [2**62, 4], [1] * 64):
            asked = pb.ModelInferRequest(model_name="any", raw_input_contents=[np.float32(1).tobytes()])
            asked.inputs.add(name="x", datatype="FP32", shape=shape)
            for address in doors(stack):
                status = call(address, "ModelInfer", asked.SerializeToString(), metadata)
                assert status in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}, (address, shape, status)


class TestTraces:
    """Attack 17: what strangers write breaks no line of a log and is no page."""

    def test_every_line_of_a_log_stays_one_document(self, stack: Stack) -> None:
        hostile = 'x"} {"event": "forged_line", "level": "info"} \x1b[31m\u2028'
        for base in (stack.url, stack.services["registry"]["http"]):
            httpx.get(
                f"{base}/api/registry/v1/models",
                params={"filter": hostile + "\r\nforged_line", "page_token": hostile},
                headers={**stack.headers, "user-agent": hostile.encode("ascii", "ignore")[:60].replace(b"\x1b", b"")},
                timeout=PATIENCE_S,
            )
            httpx.post(
                f"{base}/api/registry/v1/models",
                json={"name": "a\r\nforged_line", "description": hostile},
                headers=stack.headers,
                timeout=PATIENCE_S,
            )
        for line in (stack.data_dir / "logs" / "registry.log").read_text(errors="replace").splitlines():
            assert not line.lstrip().startswith('{"event": "forged_line"')
            assert "\x1b" not in line

    def test_what_a_stranger_writes_is_never_served_as_a_page(self, stack: Stack) -> None:
        name = f"xss-{uuid4().hex[:8]}"
        script = "<script>alert(1)</script>{{7*7}}"
        made = httpx.post(
            f"{stack.url}/api/registry/v1/models",
            json={"name": name, "description": script},
            headers=stack.headers,
            timeout=PATIENCE_S,
        )
        assert made.status_code == 201, made.text
        read = httpx.get(f"{stack.url}/api/registry/v1/models/{name}", headers=stack.headers, timeout=PATIENCE_S)
        assert read.json()["description"] == script
        assert read.headers["content-type"].startswith("application/json")


def test_tls_is_not_offered_by_accident(stack: Stack) -> None:
    """A stack without --tls refuses a handshake instead of answering in the clear to a client that wanted TLS."""
    parts = urlsplit(stack.url)
    context = ssl.create_default_context()
    with (
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(connection, server_hostname="localhost")


class TestHeaders:
    """Attack 17: no browser takes an answer for a page or a script, and no cache keeps a secret."""

    @pytest.mark.parametrize("service", ["gateway", "registry", "features", "inference", "monitor", "trainer"])
    def test_every_answer_of_a_service_says_what_it_is(self, stack: Stack, service: str) -> None:
        base = stack.services[service]["http"]
        parts = urlsplit(base)
        with httpx.Client(base_url=base, headers=stack.headers, timeout=PATIENCE_S) as client:
            answers = [
                client.get("/v2/health/live"),
                client.get(f"/api/{service}/v1/openapi.json"),
                client.get("/metrics"),
                client.get("/nothing"),
                client.get(f"/api/{service}/v1/nothing", headers={"authorization": "Bearer x"}),
                client.put("/v2/health/live"),
                client.post("/v2/models/any/infer", json={"inputs": []}),
                client.post("/v2/models/any/infer", content=b"{"),
            ]
        for answer in answers:
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"], (answer.url, answer.headers)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S) as connection:
            connection.sendall(b"no request at all\r\n\r\n")
            assert b"nosniff" in connection.recv(4096)

    def test_the_edges_own_answers_do_too(self, stack: Stack) -> None:
        with httpx.Client(base_url=stack.url, timeout=PATIENCE_S) as client:
            for answer in (
                client.get("/healthz"),
                client.get("/nothing"),
                client.get("/v2", headers={"host": "evil.example"}),
                client.get("/v2", headers={"x-a": "b" * 40_000}),
                client.post("/v2/models/any/infer", content=b" " * 9_000_000),
                client.get("/v2"),
            ):
                assert answer.headers.get_list("x-content-type-options") == ["nosniff"], (answer, answer.headers)

    def test_what_shows_a_secret_is_kept_nowhere(self, stack: Stack) -> None:
        keys, hooks = "/api/gateway/v1/keys", "/api/registry/v1/webhooks"
        for bases in zip(doors_of(stack, "gateway"), doors_of(stack, "registry"), strict=True):
            with httpx.Client(headers=stack.headers, timeout=PATIENCE_S) as client:
                made = client.post(f"{bases[0]}{keys}", json={"name": f"kept-{uuid4().hex[:8]}", "role": "viewer"})
                rotated = client.post(f"{bases[0]}{keys}/{made.json()['id']}/rotate")
                hook = client.post(f"{bases[1]}{hooks}", json={"url": "https://localhost/", "events": []})
                renewed = client.post(f"{bases[1]}{hooks}/{hook.json()['id']}/rotate-secret")
                for answer in (made, rotated, hook, renewed):
                    assert answer.headers["cache-control"] == "no-store", (answer.url, answer.text)
                client.delete(f"{bases[1]}{hooks}/{hook.json()['id']}")
                for each in (made, rotated):
                    client.delete(f"{bases[0]}{keys}/{each.json()['id']}")


def doors_of(stack: Stack, service: str) -> tuple[str, str]:
    return stack.url, stack.services[service]["http"]
