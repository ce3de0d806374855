"""One caller or several, each with a connection of its own, and the time of every call."""

import http.client
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from benchmarks.registry.servers import Server

API = "/api/2.0/mlflow"
CHUNK_BYTES = 1024 * 1024


class Caller:
    """A connection that stays open."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self._headers = server.headers

    def get(self, path: str) -> Any:
        """GET below the API; the answer's document."""
        return self._call("GET", f"{API}/{path}", None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST below the API; the answer's document."""
        return self._call("POST", f"{API}/{path}", orjson.dumps(body))

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        headers = {**self._headers, "content-type": "application/json"} if body else self._headers
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
        return orjson.loads(data)

    def upload(self, path: str, chunk: bytes, *, times: int) -> float:
        """PUT a file of `times` chunks; seconds."""

        def body() -> Iterator[bytes]:
            for _ in range(times):
                yield chunk

        began = time.monotonic()
        length = {"content-length": str(len(chunk) * times), "content-type": "application/octet-stream"}
        self._connection.request("PUT", path, body(), {**self._headers, **length})
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"PUT {path}: {answer.status}")
        return time.monotonic() - began

    def download(self, path: str) -> tuple[float, int]:
        """GET a file; seconds and bytes."""
        began, size = time.monotonic(), 0
        self._connection.request("GET", path, None, self._headers)
        answer = self._connection.getresponse()
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while got := answer.readinto(buffer):
            size += got
        return time.monotonic() - began, size


@dataclass(frozen=True, slots=True)
class Timing:
    """Figures of one operation: milliseconds and calls per second."""

    p50_ms: float
    p95_ms: float
    per_s: float
    calls: int


def timed(server: Server, call: Callable[[Caller, int], object], *, seconds: float, callers: int = 1) -> Timing:
    """Call over and over for some seconds, after two calls that do not count."""
    spent: list[list[float]] = [[] for _ in range(callers)]
    ready = threading.Barrier(callers)

    def work(number: int) -> None:
        caller = Caller(server)
        for warm in range(2):
            call(caller, 1_000_000 * (number + 1) + 500_000 + warm)
        ready.wait()
        until, turn = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            began = time.monotonic()
            call(caller, 1_000_000 * (number + 1) + turn)
            spent[number].append(time.monotonic() - began)
            turn += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(value for own in spent for value in own)
    rate = sum(len(own) / sum(own) for own in spent)
    p95 = every[min(len(every) - 1, int(len(every) * 0.95))]
    return Timing(statistics.median(every) * 1e3, p95 * 1e3, rate, len(every))
