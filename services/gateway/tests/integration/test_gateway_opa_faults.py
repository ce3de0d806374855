"""A real OPA server that hangs, dribbles, lies or is lied to: what was allowed goes on for its seconds, nothing else.

Needs an ``opa`` program (PATH, or CLAVE_TEST_OPA) where the real server is hung; the other servers are made here.
"""

import asyncio
import signal
import socket
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.model import Caller, Resource
from clave_common.access.opa_engine import OpaEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import Snapshot
from clave_common.errors import Unavailable
from clave_testing.patience import PATIENCE_S
from clave_testing.policies import opa_program, shipped_bundle

pytestmark = pytest.mark.integration
ADA = Caller("user:admin", "user", "default", "api_key", time.time() + 3600, source_ip="127.0.0.1", key_id="k1")
MODEL = Resource("model", "models/churn", {"tenant": "default", "visibility": "tenant"})
READ, CHANGE = "registry:model.read", "registry:model.create"


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def point(engine: OpaEngine, bundle: PolicyBundle, clock: Clock) -> LocalDecisionPoint:
    snapshot = Snapshot(1, time.time(), MappingProxyType({}), bundle)
    return LocalDecisionPoint(engine, lambda: snapshot, now=clock)


@asynccontextmanager
async def real_opa(program: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        *(program, "run", "--server", "--addr", address, "--skip-version-check", "--log-level", "error"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process, f"http://{address}"
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        await process.wait()


async def loaded(engine: OpaEngine, bundle: PolicyBundle) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            return await engine.publish(bundle)
        except Unavailable:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)


async def test_while_opa_hangs_reads_go_on_for_their_seconds_and_changes_stop_at_once() -> None:
    program = opa_program()
    if program is None:
        warnings.warn("NO REAL OPA: set CLAVE_TEST_OPA or put 'opa' on PATH. A HUNG OPA IS NOT TESTED.", stacklevel=1)
        return
    bundle, clock = shipped_bundle(), Clock()
    kept_s = bundle.data["catalog"][READ]["cache_ttl_s"]
    async with real_opa(program) as (process, url), OpaEngine(url, timeout_s=0.5) as engine:
        await loaded(engine, bundle)
        asked = point(engine, bundle, clock)
        assert (await asked.decide(ADA, READ, MODEL, {})).allow
        assert (await asked.decide(ADA, CHANGE, MODEL, {})).allow
        process.send_signal(signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        clock.now += kept_s - 0.1
        assert (await asked.decide(ADA, READ, MODEL, {})).allow
        for action, resource in ((CHANGE, MODEL), (READ, Resource("model", "models/other", MODEL.properties))):
            with pytest.raises(Unavailable) as refusal:
                await asked.decide(ADA, action, resource, {})
            assert refusal.value.code == "policy_unavailable"
        clock.now += 0.2
        with pytest.raises(Unavailable):
            await asked.decide(ADA, READ, MODEL, {})
        assert asyncio.get_running_loop().time() - began < 10  # three time-outs of 0.5 s
        process.send_signal(signal.SIGCONT)
        assert (await asked.decide(ADA, CHANGE, MODEL, {})).allow


Answers = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]
ALLOW = {
    "allow": True,
    "reasons": [],
    "policy_version": "1",
    "obligations": {
        "rate_limit": {"per_minute": 60, "burst": 10},
        "mask": [],
        "audit": "sampled",
        "cache_ttl_s": 5,
    },
}


@asynccontextmanager
async def pretended(answer: Answers) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers as told; gives its URL and the request lines that it saw."""
    seen: list[bytes] = []
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # a handler always runs in a task
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head.split(b"\r\n")[0])
        await answer(writer, head)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        for task in tasks:
            task.cancel()


def whole(document: Any, status: str = "200 OK") -> Answers:
    body = document if isinstance(document, bytes) else orjson.dumps(document)

    async def answer(writer: asyncio.StreamWriter, _head: bytes) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return answer


async def dribble(writer: asyncio.StreamWriter, _head: bytes) -> None:
    """Send an allow one byte at a time: each comes soon, the whole never in time."""
    body = orjson.dumps({"result": ALLOW})
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode())
    for byte in body:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)


REFUSING = {
    "no result": whole({}),
    "null": whole({"result": None}),
    "a bare true": whole({"result": True}),
    "a list": whole({"result": [ALLOW]}),
    "allow as text": whole({"result": {**ALLOW, "allow": "true"}}),
    "allow as one": whole({"result": {**ALLOW, "allow": 1}}),
    "reasons against it": whole({"result": {**ALLOW, "reasons": ["no_grant"]}}),
    "no obligations": whole({"result": {"allow": True, "reasons": [], "policy_version": "1"}}),
    "no JSON": whole(b"allow"),
    "cut": whole(orjson.dumps({"result": ALLOW})[:-4]),
    "an error with an allow": whole({"result": ALLOW}, "500 Internal Server Error"),
    "not found": whole({"result": ALLOW}, "404 Not Found"),
    "dribbled": dribble,
}


@pytest.mark.parametrize("answer", REFUSING.values(), ids=REFUSING)
async def test_what_is_no_clear_allow_in_time_allows_nothing(answer: Answers) -> None:
    async with pretended(answer) as (url, _), OpaEngine(url, timeout_s=0.3) as engine:
        asked = point(engine, shipped_bundle(), Clock())
        began = asyncio.get_running_loop().time()
        for action in (READ, CHANGE):
            try:
                decision = await asked.decide(ADA, action, MODEL, {})
            except Unavailable:
                continue
            assert decision.allow is False, decision
        assert asyncio.get_running_loop().time() - began < 5


async def test_a_clear_allow_allows() -> None:
    async with pretended(whole({"result": ALLOW})) as (url, seen), OpaEngine(url) as engine:
        assert (await point(engine, shipped_bundle(), Clock()).decide(ADA, CHANGE, MODEL, {})).allow
    assert seen == [b"POST /v1/data/clave/authz/decision HTTP/1.1"]


@pytest.mark.parametrize(
    "text", ["../policies/evil", "..%2fpolicies", "/v1/policies", "?pretty", "#", "\r\nX: y", "%00"]
)
async def test_nothing_that_is_asked_about_reaches_the_servers_path(text: str) -> None:
    caller = Caller(f"user:{text}", "user", text, "api_key", time.time() + 60, groups=(text,), scopes=(text,))
    resource = Resource(text, text, {"tenant": text, text: text})
    async with pretended(whole({"result": ALLOW})) as (url, seen), OpaEngine(url) as engine:
        asked = point(engine, shipped_bundle(), Clock())
        await asked.decide(caller, text, resource, {"purpose": text})
        await asked.visible(caller, text)
    assert set(seen) == {
        b"POST /v1/data/clave/authz/decision HTTP/1.1",
        b"POST /v1/data/clave/filters/visible HTTP/1.1",
    }
