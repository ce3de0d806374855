"""Attacks 18 and 19: too much, too slow, too many names; and messages that nobody sent, in queues and streams."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
import redis
from clave.stack import processes, valkey_users
from clave.stack.layout import Layout
from clave.stack.programs import redis_url
from clave.stack.secrets import read_passwords
from clave_contracts.events import PREDICTION_STREAM, AuditEntry, audit_stream, decision_stream, event_stream
from clave_testing.patience import PATIENCE_S, wait_until
from clave_testing.stack import Stack
from clave_trainer.doorbell import DOORBELL, create_celery, queue_of
from redis.backoff import NoBackoff
from redis.retry import Retry

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]
KEY_PREFIX = create_celery("redis://x").conf.broker_transport_options["global_keyprefix"]
SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")
HEADERS, RESET, SETTINGS, GOAWAY = 1, 3, 4, 7


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S)


@pytest.fixture
def edge_socket(stack: Stack) -> Iterator[socket.socket]:
    with connect(stack.url) as connection:
        yield connection


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def frames(connection: socket.socket, enough: int) -> list[tuple[int, bytes]]:
    """Kinds and payloads of what the edge sends, until it sent as many of a stream's end or closes."""
    found: list[tuple[int, bytes]] = []
    held = b""
    while sum(kind in {RESET, GOAWAY} for kind, _ in found) < enough:
        part = connection.recv(65536)
        if not part:
            return found
        held += part
        while len(held) >= 9 and len(held) >= 9 + int.from_bytes(held[:3], "big"):
            size = int.from_bytes(held[:3], "big")
            found.append((held[3], held[9 : 9 + size]))
            held = held[9 + size :]
    return found


def block_of(method: bytes, path: bytes) -> bytes:
    """Static HPACK: the method by index, http, path and authority as literals."""
    host = b"127.0.0.1"
    return method + b"\x86\x04" + bytes([len(path)]) + path + b"\x01" + bytes([len(host)]) + host


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
GET, POST = b"\x82", b"\x83"


class TestEdge:
    def test_clients_that_dribble_their_headers_are_cut_off_while_others_are_served(self, stack: Stack) -> None:
        slow = [connect(stack.url) for _ in range(100)]
        try:
            for number, connection in enumerate(slow):
                connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\nx-%d: " % number)
            assert httpx.get(f"{stack.url}/healthz", timeout=PATIENCE_S).status_code == 200
            began = time.monotonic()
            assert {connection.recv(4096)[:12] for connection in slow} == {b"HTTP/1.1 408"}
            assert time.monotonic() - began < 12
        finally:
            for connection in slow:
                connection.close()

    def test_a_client_that_opens_streams_only_to_reset_them_is_cut_off(self, edge_socket: socket.socket) -> None:
        block = block_of(GET, b"/v2/health/live")
        edge_socket.sendall(PREFACE)
        edge_socket.settimeout(10)
        cut = False
        try:
            for number in range(1, 20_001, 2):
                edge_socket.sendall(frame(HEADERS, 5, number, block) + frame(RESET, 0, number, b"\0\0\0\x08"))
            while edge_socket.recv(65536):
                pass
            cut = True
        except (ConnectionError, TimeoutError) as error:
            cut = isinstance(error, ConnectionError)
        assert cut

    def test_ten_thousand_streams_at_once_are_not_opened(self, stack: Stack, edge_socket: socket.socket) -> None:
        block = block_of(POST, b"/v2/models/any/infer")
        edge_socket.sendall(PREFACE)
        try:
            for number in range(1, 20_001, 2):  # headers without an end: each waits for its body
                edge_socket.sendall(frame(HEADERS, 4, number, block))
            seen = frames(edge_socket, enough=500)
        except ConnectionError:
            seen = [(GOAWAY, b"")]
        refused = sum(kind == RESET for kind, _ in seen)
        assert refused >= 100 or any(kind == GOAWAY for kind, _ in seen), [kind for kind, _ in seen][:50]
        assert httpx.get(f"{stack.url}/healthz", timeout=PATIENCE_S).status_code == 200


def series(stack: Stack, service: str) -> list[str]:
    text = httpx.get(stack.services[service]["metrics"], timeout=PATIENCE_S).text
    return [line.partition(" ")[0] for line in text.splitlines() if not line.startswith("#")]


def pipelined(url: str, requests: list[bytes], *, at_once: int = 50) -> int:
    """Send requests on one connection, some at a time; returns how many were answered."""
    answered = 0
    with connect(url) as connection:
        for start in range(0, len(requests), at_once):
            part = requests[start : start + at_once]
            connection.sendall(b"".join(part))
            held, wanted = b"", answered + len(part)
            while answered < wanted:
                received = connection.recv(1 << 20)
                assert received, f"cut off after {answered} answers: {held[-300:]!r}"
                held += received
                answered += held.count(b"HTTP/1.1 ")
                held = held[-8:].replace(b"HTTP/1.1 ", b"")
    return answered


class TestNames:
    """Attack 19: what strangers call things does not multiply the series of a metric."""

    def test_ten_thousand_models_that_do_not_exist_are_no_ten_thousand_series(self, stack: Stack) -> None:
        authorization = stack.headers["authorization"].encode()
        requests = [
            b"POST /v2/models/stranger-%d/infer HTTP/1.1\r\nhost: a\r\nauthorization: %s\r\n"
            b"content-type: application/json\r\ncontent-length: 13\r\n\r\n" % (number, authorization) + b'{"inputs":[]}'
            for number in range(10_000)
        ]
        before = len(series(stack, "inference"))
        assert pipelined(stack.services["inference"]["http"], requests) == len(requests)
        after = series(stack, "inference")
        assert not [name for name in after if "stranger-" in name]
        assert len(after) < before + 1_000  # others' tests ask new routes meanwhile

    @pytest.mark.parametrize("service", SERVICES)
    def test_paths_methods_and_names_of_strangers_are_no_labels(self, stack: Stack, service: str) -> None:
        base, word = stack.services[service]["http"], uuid4().hex
        with httpx.Client(base_url=base, headers=stack.headers, timeout=PATIENCE_S) as client:
            for number in range(20):
                name = f"stranger-{word}-{number}"
                client.get(f"/api/{service}/v1/{name}")
                client.get(f"/{name}", headers={"host": name, "user-agent": name})
                client.post(f"/api/{service}/v1/{word}/{name}", json={"name": name})
                client.delete(f"/api/registry/v1/models/{name}/versions/1")
                client.get(f"/v2/models/{name}")
        after = series(stack, service)
        assert after
        assert not [name for name in after if word in name]


@pytest.fixture(scope="module")
def stores(stack: Stack) -> Iterator[dict[str, Any]]:
    """The store as each of its users sees it: what whoever stole that user's password can do."""
    layout = Layout.at(stack.data_dir)
    passwords = read_passwords(layout.secrets)
    with ExitStack() as opened:
        yield {
            user: opened.enter_context(redis.from_url(redis_url(layout, user, passwords)))
            for user in valkey_users.USERS
        }


def workers(stack: Stack) -> list[int]:
    stack_id = Layout.at(stack.data_dir).stack_id
    return [found.pid for found in processes.find_processes(stack_id) if found.program == "worker"]


def message(body: bytes, *, task: str = "os.system", content_type: str = "application/json", **headers: Any) -> bytes:
    """What Celery would put into the queue."""
    queue = queue_of("light")
    document = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary",
        "content-type": content_type,
        "headers": {"lang": "py", "task": task, "id": uuid4().hex, "argsrepr": "()", "kwargsrepr": "{}", **headers},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": uuid4().hex,
            "delivery_mode": 2,
            "body_encoding": "base64",
        },
    }
    return json.dumps(document).encode()


CALL = json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()
SIGNATURE = {"task": "os.system", "args": ["true"], "kwargs": {}, "options": {}, "subtask_type": None}


class TestStores:
    """Attack 18: the stores are private, and what lies in them is data, never code."""

    def test_the_stores_ask_for_a_password_on_a_private_socket(self, stack: Stack) -> None:
        layout = Layout.at(stack.data_dir)
        assert layout.valkey_socket.stat().st_mode & 0o077 == 0
        with (
            redis.Redis(unix_socket_path=str(layout.valkey_socket), retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()

    def test_no_service_writes_what_is_anothers(self, stores: dict[str, Any]) -> None:
        """Tasks, audit entries, decisions, predictions and events, forged with another service's credentials."""
        written = {
            PREDICTION_STREAM: "inference",
            **{
                stream_of(name): name
                for stream_of in (audit_stream, decision_stream, event_stream)
                for name in SERVICES
            },
        }
        for user, store in stores.items():
            for stream in [stream for stream, owner in written.items() if owner != user]:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    store.xadd(stream, {"id": "x", "body": "{}"})
                with pytest.raises(redis.exceptions.NoPermissionError):
                    store.delete(stream)
            if user == "trainer":
                continue
            with pytest.raises(redis.exceptions.NoPermissionError):
                store.lpush(KEY_PREFIX + queue_of("light"), message(CALL, task=DOORBELL))

    def test_forged_tasks_run_nothing_and_the_worker_lives(
        self, stack: Stack, stores: dict[str, Any], tmp_path: Path
    ) -> None:
        store = stores["trainer"]
        canary = tmp_path / "canary"
        # What unpickling would run: posix.system("touch canary").
        pickled = b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
        yaml = f"!!python/object/apply:os.system ['touch {canary}']".encode()
        link = json.dumps([[], {}, {"callbacks": [SIGNATURE], "errbacks": [SIGNATURE], "chain": [SIGNATURE]}]).encode()
        before = workers(stack)
        forged = [
            message(pickled, content_type="application/x-python-serialize"),
            message(pickled),
            message(yaml, content_type="application/x-yaml"),
            message(CALL),
            message(CALL, task="celery.backend_cleanup"),
            message(json.dumps([[SIGNATURE, [[f"touch {canary}"]]], {}, {}]).encode(), task="celery.map"),
            message(link, task=DOORBELL),
            message(CALL, task=DOORBELL, expires="never", eta="\0", retries="x", timelimit=[None, "x"]),
            message(b"[" * 50_000, task=DOORBELL),
            *(message(CALL, task=DOORBELL) for _ in range(300)),
        ]
        queue = KEY_PREFIX + queue_of("light")
        store.lpush(queue, *forged)
        wait_until(lambda: store.llen(queue) == 0, what="the worker to take the tasks")
        assert before
        assert workers(stack) == before
        assert not canary.exists()

    def test_what_is_no_message_at_all_leaves_the_worker_working(self, stack: Stack, stores: dict[str, Any]) -> None:
        """It is set aside, and the same worker hears the next bell."""
        before = workers(stack)
        store = stores["trainer"]
        queue = KEY_PREFIX + queue_of("light")
        store.lpush(queue, b"not json")
        wait_until(lambda: store.llen(queue) == 0, what="the worker to take it")
        store.lpush(queue, message(CALL, task=DOORBELL))
        wait_until(lambda: store.llen(queue) == 0, what="the worker to hear a bell")
        assert before
        assert workers(stack) == before

    def test_entries_that_nobody_wrote_stop_no_reader_and_are_no_audit(
        self, stack: Stack, stores: dict[str, Any]
    ) -> None:
        """With the credentials of each service itself: it takes its signing key as well to speak in its name."""
        word = f"forged{uuid4().hex[:8]}"
        bodies = [b"", b"null", b"[]", b"\xff", b"[" * 50_000, json.dumps({"id": 1, "action": word}).encode()]
        kinds = (audit_stream, decision_stream, event_stream)
        without_outbox = {audit_stream("inference"), event_stream("inference")}
        streams = {
            stream_of(name): name for stream_of in kinds for name in SERVICES if stream_of(name) not in without_outbox
        }
        for stream, owner in {**streams, PREDICTION_STREAM: "inference"}.items():
            store = stores[owner]
            for number, body in enumerate(bodies):
                store.xadd(stream, {"id": f"{word}-{number}", "body": body})
            store.xadd(stream, {"nothing": word})
            if stream == audit_stream(owner):
                made_up = AuditEntry(service=owner, actor="user:nobody", action=word, resource="models/m")
                store.xadd(stream, {"id": made_up.id, "body": made_up.model_dump_json()})
        one = f"{stack.url}/api/gateway/v1"
        made = httpx.post(
            f"{one}/keys", json={"name": word, "role": "viewer"}, headers=stack.headers, timeout=PATIENCE_S
        )
        assert made.status_code == 201, made.text

        def recorded() -> bool:
            found = httpx.get(
                f"{one}/audit", params={"action": "admin:key.create"}, headers=stack.headers, timeout=PATIENCE_S
            )
            return made.json()["id"] in found.text

        wait_until(recorded, what="the log to go on behind them")
        assert httpx.post(f"{one}/audit/verify", headers=stack.headers, timeout=PATIENCE_S).json()["ok"]
        shown = httpx.get(f"{one}/audit", params={"action": word}, headers=stack.headers, timeout=PATIENCE_S)
        assert shown.json()["records"] == []
        for service in SERVICES:
            ready = f"{stack.services[service]['http']}/v2/health/ready"
            wait_until(lambda url=ready: httpx.get(url, timeout=PATIENCE_S).status_code == 200, what=f"{service}")

    def test_a_name_that_no_database_holds_does_not_stop_the_log_of_decisions(self, stack: Stack) -> None:
        word = f"after-{uuid4().hex[:8]}"
        gateway = f"{stack.url}/api/gateway/v1"
        with httpx.Client(timeout=PATIENCE_S) as client:
            made = client.post(f"{gateway}/keys", json={"name": word, "role": "viewer"}, headers=stack.headers)
            viewer = {"authorization": f"Bearer {made.json()['key']}"}
            models = f"{stack.services['registry']['http']}/api/registry/v1/models"
            wait_until(
                lambda: client.get(models, headers=viewer).status_code == 200,
                what="the new key's rights",
            )
            for name in ("a%00b", "%ED%A0%80", "x" * 8_000, f"last-{word}"):
                refused = client.delete(f"{models}/{name}", headers=viewer)
                assert refused.status_code in {400, 403, 404}, (name[:20], refused.text)

            def kept() -> bool:
                found = client.get(
                    f"{gateway}/decisions", params={"action": "registry:model.delete"}, headers=stack.headers
                )
                return f"last-{word}" in found.text

            wait_until(kept, what="the newest refusal in the log of decisions")
