"""Attacks at the doors that the gateway's own attack tests do not try: gRPC, the edge's limits, bombs, stores.

`services/gateway/tests/integration/test_gateway_attacks.py` holds routes without credentials, forged tokens, traversal,
smuggling, odd bodies and mass assignment over REST; nothing of it is repeated here.
"""

import base64
import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import httpx
import numpy as np
import psutil
import pytest
import redis
from clave.stack import processes
from clave.stack.layout import Layout
from clave.stack.programs import redis_url
from clave.stack.secrets import read_passwords
from clave_common.access.service_tokens import ServiceTokenMinter
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.servers import wait_until
from clave_testing.stack import Stack
from clave_trainer.doorbell import create_celery, queue_of

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]
KEY_PREFIX = create_celery("redis://x").conf.broker_transport_options["global_keyprefix"]
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
                list(channel.stream_stream(SERVICE + method)(iter([message]), metadata=metadata, timeout=10))
            else:
                channel.unary_unary(SERVICE + method)(message, metadata=metadata, timeout=10)
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
                    channel.unary_unary(path)(b"", timeout=10)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, (address, path)

    @pytest.mark.parametrize(
        "content", [b"\xff" * 100, b"\x08\x96\x01" * 1000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 500]
    )
    def test_messages_that_are_none_are_refused(self, stack: Stack, content: bytes) -> None:
        for address in doors(stack):
            status = call(address, "ModelInfer", content, ("authorization", stack.headers["authorization"]))
            assert status not in {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}, address


@pytest.fixture
def edge_socket(stack: Stack) -> Iterator[socket.socket]:
    parts = urlsplit(stack.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=15) as connection:
        yield connection


class TestEdge:
    def test_a_client_that_dribbles_its_headers_is_cut_off(self, edge_socket: socket.socket) -> None:
        edge_socket.sendall(b"GET /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: ")
        began = time.monotonic()
        answer = edge_socket.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 10

    def test_a_client_that_opens_streams_only_to_reset_them_is_cut_off(self, edge_socket: socket.socket) -> None:
        def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
            return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

        # Static HPACK: GET, http, "/v2/x" as a literal, the authority as a literal.
        path, host = b"/v2/health/live", b"127.0.0.1"
        block = b"\x82\x86\x04" + bytes([len(path)]) + path + b"\x01" + bytes([len(host)]) + host
        edge_socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        cut = False
        edge_socket.settimeout(5)
        try:
            for number in range(1, 20_001, 2):
                edge_socket.sendall(frame(1, 5, number, block) + frame(3, 0, number, b"\0\0\0\x08"))
            while edge_socket.recv(65536):
                pass
            cut = True
        except (ConnectionError, TimeoutError) as error:
            cut = isinstance(error, ConnectionError)
        assert cut

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


class TestBombs:
    def test_a_compressed_body_never_grows_beyond_the_limit(self, stack: Stack) -> None:
        bomb = gzip.compress(bytes(200 * 1024 * 1024), 9)
        layout = Layout.at(stack.data_dir)
        pids = [found.pid for found in processes.find_processes(layout.stack_id) if found.program == "inference"]
        before = sum(psutil.Process(pid).memory_info().rss for pid in pids)
        for base in (stack.url, stack.services["inference"]["http"]):
            answer = httpx.post(
                f"{base}/v2/models/any/infer",
                content=bomb,
                headers={**stack.headers, "content-encoding": "gzip", "content-type": "application/json"},
                timeout=30,
            )
            assert answer.status_code in {400, 413}, answer.text
        after = sum(psutil.Process(pid).memory_info().rss for pid in pids)
        assert after - before < 100 * 1024 * 1024

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
            answer = httpx.post(f"{base}/v2/models/any/infer", content=body, headers=stack.headers, timeout=20)
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


class TestServerSideRequests:
    """Attack 5: nothing that a caller names makes a service call an address inside."""

    def test_no_webhook_reaches_this_machine(self, stack: Stack) -> None:
        hits: list[bytes] = []
        with socket.create_server(("127.0.0.1", 0)) as canary:
            port = canary.getsockname()[1]
            canary.settimeout(0.2)
            stop = threading.Event()

            def listen() -> None:
                while not stop.is_set():
                    try:
                        connection, _ = canary.accept()
                    except TimeoutError:
                        continue
                    hits.append(connection.recv(100))
                    connection.close()

            thread = threading.Thread(target=listen)
            thread.start()
            try:
                for host in (
                    "127.0.0.1",
                    "2130706433",
                    "0x7f.1",
                    "[::1]",
                    "[::ffff:127.0.0.1]",
                    "localhost",
                    "0.0.0.0",
                ):
                    made = httpx.post(
                        f"{stack.url}/api/registry/v1/webhooks",
                        json={"url": f"https://{host}:{port}/", "events": ["RolloutChanged"]},
                        headers=stack.headers,
                        timeout=20,
                    )
                    assert made.status_code in {201, 403, 422}, made.text
                    if made.status_code == 201:
                        one = f"{stack.url}/api/registry/v1/webhooks/{made.json()['id']}"
                        httpx.post(f"{one}/ping", headers=stack.headers, timeout=20)
                        wait_until(lambda url=one: is_tried(stack, url), what="a try to deliver", seconds=20)
                        httpx.delete(one, headers=stack.headers, timeout=20)
            finally:
                stop.set()
                thread.join()
        assert hits == []


def is_tried(stack: Stack, webhook: str) -> bool:
    found = httpx.get(f"{webhook}/deliveries", headers=stack.headers, timeout=20)
    return found.status_code != 200 or any(each["state"] != "pending" for each in found.json()["deliveries"])


class TestStores:
    """Attack 18: the stores are private, and what lies in them is data, never code."""

    def test_the_stores_ask_for_a_password_on_a_private_socket(self, stack: Stack) -> None:
        layout = Layout.at(stack.data_dir)
        assert layout.valkey_socket.stat().st_mode & 0o077 == 0
        with (
            redis.Redis(unix_socket_path=str(layout.valkey_socket)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()

    def test_a_forged_task_is_not_unpickled_and_the_worker_lives(self, stack: Stack, tmp_path: Path) -> None:
        layout = Layout.at(stack.data_dir)
        canary = tmp_path / "canary"
        # What unpickling would run: posix.system("touch canary").
        payload = b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
        queue = queue_of("light")
        with redis.from_url(redis_url(layout, read_passwords(layout.secrets))) as client:
            for content_type in ("application/x-python-serialize", "application/json", "application/x-yaml"):
                client.lpush(KEY_PREFIX + queue, forged_task(payload, queue, content_type))
            wait_until(lambda: client.llen(KEY_PREFIX + queue) == 0, what="the worker to take the tasks", seconds=30)
        worker = [found.pid for found in processes.find_processes(layout.stack_id) if found.program == "worker"]
        assert worker
        assert all(psutil.pid_exists(pid) for pid in worker)
        assert not canary.exists()


def forged_task(payload: bytes, queue: str, content_type: str) -> str:
    return json.dumps(
        {
            "body": base64.b64encode(payload).decode(),
            "content-encoding": "binary",
            "content-type": content_type,
            "headers": {"lang": "py", "task": "os.system", "id": uuid4().hex, "argsrepr": "()", "kwargsrepr": "{}"},
            "properties": {
                "delivery_info": {"exchange": "", "routing_key": queue},
                "delivery_tag": uuid4().hex,
                "delivery_mode": 2,
                "body_encoding": "base64",
            },
        }
    )


class TestTraces:
    """Attacks 17 and 19: what strangers write neither breaks a log's lines nor multiplies a metric's."""

    def test_names_of_strangers_do_not_become_metric_labels(self, stack: Stack) -> None:
        metrics = stack.services["inference"]["metrics"]
        with httpx.Client(base_url=stack.url, headers=stack.headers, timeout=20) as client:
            client.post("/v2/models/warm-up/infer", json={"inputs": []})
            before = len(httpx.get(metrics, timeout=20).text.splitlines())
            for number in range(200):
                client.post(f"/v2/models/stranger-{number}/infer", json={"inputs": []})
        text = httpx.get(metrics, timeout=20).text
        assert "stranger-" not in text
        assert len(text.splitlines()) < before + 50

    def test_every_line_of_a_log_stays_one_document(self, stack: Stack) -> None:
        hostile = 'x"} {"event": "forged_line", "level": "info"} \x1b[31m\u2028'
        for base in (stack.url, stack.services["registry"]["http"]):
            httpx.get(
                f"{base}/api/registry/v1/models",
                params={"filter": hostile + "\r\nforged_line", "page_token": hostile},
                headers={**stack.headers, "user-agent": hostile.encode("ascii", "ignore")[:60].replace(b"\x1b", b"")},
                timeout=20,
            )
            httpx.post(
                f"{base}/api/registry/v1/models",
                json={"name": "a\r\nforged_line", "description": hostile},
                headers=stack.headers,
                timeout=20,
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
            timeout=20,
        )
        assert made.status_code == 201, made.text
        read = httpx.get(f"{stack.url}/api/registry/v1/models/{name}", headers=stack.headers, timeout=20)
        assert read.json()["description"] == script
        assert read.headers["content-type"].startswith("application/json")


def test_tls_is_not_offered_by_accident(stack: Stack) -> None:
    """A stack without --tls refuses a handshake instead of answering in the clear to a client that wanted TLS."""
    parts = urlsplit(stack.url)
    context = ssl.create_default_context()
    with (
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(connection, server_hostname="localhost")
