"""Attack 1: every component is paused and killed in turn while attackers ask without a pause, on a stack of its own.

Whatever is away, nobody gets in: not one of them is answered. Callers with a right may be refused meanwhile, with the
reason, and are served again afterwards.
"""

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self
from uuid import uuid4

import grpc
import httpx
import pytest
from clave.stack import processes
from clave.stack.layout import Layout
from clave_common.access.service_tokens import ServiceTokenMinter
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.servers import session_root, wait_until
from clave_testing.stack import Stack, start_stack, stop_command
from clave_testing.tenants import make_rival

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
COMPONENTS = ("gateway", "postgres", "valkey", "inference", "registry", "edge")
PAUSE_S = 2.0
REGISTRY = "/api/registry/v1"
GATEWAY = "/api/gateway/v1"
GRPC = "/inference.GRPCInferenceService/"


class Attackers:
    """Threads that ask for what they may not have; every success is kept."""

    def __init__(self, stack: Stack, attacks: list[Callable[[], str | None]]):
        self.stack = stack
        self.attacks = attacks
        self.stop = threading.Event()
        self.asked = 0
        self.successes: list[str] = []
        self.threads = [threading.Thread(target=self.attack, args=(start,)) for start in range(6)]

    def attack(self, start: int) -> None:
        number = start
        while not self.stop.is_set():
            found = self.attacks[number % len(self.attacks)]()
            number += 1
            self.asked += 1
            if found is not None:
                self.successes.append(found)

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture(scope="module")
def opa() -> Iterator[tuple[subprocess.Popen[bytes], str] | None]:
    """The real policy server where one can be found, else None: the engine then lives inside the services."""
    program = os.environ.get("CLAVE_TEST_OPA") or shutil.which("opa")
    if program is None:
        print("no OPA server found: the embedded engine decides")
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen([program, "run", "--server", "--addr", address, "--log-level", "error"])
    yield process, f"http://{address}"
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def own_stack(opa: tuple[subprocess.Popen[bytes], str] | None) -> Iterator[Stack]:
    data_dir = session_root() / "kill-loop"
    before = os.environ.get("CLAVE_OPA_URL")
    try:
        if opa is not None:
            os.environ["CLAVE_OPA_URL"] = opa[1]
        yield start_stack(data_dir)
    finally:
        os.environ.pop("CLAVE_OPA_URL", None)
        if before is not None:
            os.environ["CLAVE_OPA_URL"] = before
        subprocess.run(stop_command(data_dir), check=False, capture_output=True, timeout=120)


def rest(method: str, url: str, headers: dict[str, str], body: object = None) -> Callable[[], str | None]:
    def ask() -> str | None:
        try:
            answer = httpx.request(method, url, headers=headers, json=body, timeout=1.5)
        except httpx.HTTPError:
            return None
        refused_in_grpc = answer.headers.get("grpc-status", "0") != "0"
        return None if answer.status_code >= 400 or refused_in_grpc else f"{method} {url} {answer.text[:200]}"

    return ask


def rpc(address: str, method: str, message: bytes, metadata: tuple[tuple[str, str], ...]) -> Callable[[], str | None]:
    def ask() -> str | None:
        with grpc.insecure_channel(address) as channel:
            try:
                answer = channel.unary_unary(GRPC + method)(message, metadata=metadata, timeout=1.5)
            except grpc.RpcError:
                return None
        return f"{method} at {address}: {answer[:200]!r}"

    return ask


def attacks_on(stack: Stack, model: str) -> list[Callable[[], str | None]]:
    rival = make_rival(stack)
    made = httpx.post(
        f"{stack.url}{GATEWAY}/keys", json={"name": f"low-{uuid4().hex[:6]}", "role": "viewer"}, headers=stack.headers
    )
    viewer = {"authorization": f"Bearer {made.json()['key']}"}
    forged = {"authorization": f"Bearer {stack.admin_key[:-12]}{'0' * 12}"}
    wrong_audience = ServiceTokenMinter.from_file("trainer", stack.data_dir / "secrets" / "trainer.pem").token("nobody")
    strangers = [
        {},
        forged,
        {"authorization": f"Bearer {wrong_audience}"},
        {"x-clave-principal": "user:admin", "x-clave-on-behalf-of": "user:admin", "content-type": "application/grpc"},
    ]
    found: list[Callable[[], str | None]] = []
    for base in ("edge", "registry", "gateway"):
        root = stack.url if base == "edge" else stack.services[base]["http"]
        for headers in strangers:
            if base != "gateway":
                found.append(rest("GET", f"{root}{REGISTRY}/models", headers))
            if base != "registry":
                found.append(rest("GET", f"{root}{GATEWAY}/keys", headers))
                found.append(rest("POST", f"{root}{GATEWAY}/keys", headers, {"name": "x", "role": "viewer"}))
        if base != "gateway":
            found.append(rest("POST", f"{root}{REGISTRY}/models", viewer, {"name": f"v-{uuid4().hex[:8]}"}))
            found.append(rest("GET", f"{root}{REGISTRY}/models/{model}", rival.headers))
            found.append(rest("DELETE", f"{root}{REGISTRY}/models/{model}", rival.headers))
        if base != "registry":
            found.append(rest("POST", f"{root}{GATEWAY}/keys", viewer, {"name": "x", "role": "viewer"}))
            found.append(rest("PUT", f"{root}{GATEWAY}/lockdown", viewer, {"on": True, "reason": "because I can"}))
    infer = pb.ModelInferRequest(model_name=model).SerializeToString()
    for address in (stack.grpc, stack.services["inference"]["grpc"]):
        for metadata in ((), (("authorization", forged["authorization"]),), (("x-clave-principal", "user:admin"),)):
            found.append(rpc(address, "ModelInfer", infer, metadata))
            found.append(rpc(address, "ServerMetadata", b"", metadata))
            found.append(rpc(address, "ModelReady", pb.ModelReadyRequest(name=model).SerializeToString(), metadata))
    for root in (stack.url, stack.services["inference"]["http"]):
        found.append(rest("POST", f"{root}/v2/models/{model}/infer", {}, {"inputs": []}))
        found.append(rest("GET", f"{root}/v2/models", forged))
    return found


def pids(stack: Stack, program: str) -> list[int]:
    stack_id = Layout.at(stack.data_dir).stack_id
    return [process.pid for process in processes.find_processes(stack_id) if process.program == program]


def send(ids: list[int], number: signal.Signals) -> None:
    for pid in ids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def test_nobody_gets_in_while_anything_is_paused_or_killed(
    own_stack: Stack, opa: tuple[subprocess.Popen[bytes], str] | None
) -> None:
    stack = own_stack
    model = f"victim-{uuid4().hex[:8]}"
    made = httpx.post(f"{stack.url}{REGISTRY}/models", json={"name": model}, headers=stack.headers, timeout=20)
    assert made.status_code == 201, made.text
    attacks = attacks_on(stack, model)

    def enough(attackers: Attackers) -> None:
        """Every attack was tried since now, or the time is over: hung answers take their time-out each."""
        ticks = threading.Event()
        ticks.wait(PAUSE_S)
        assert not attackers.successes, attackers.successes

    with Attackers(stack, attacks) as attackers:
        for component in COMPONENTS:
            paused = pids(stack, component)
            assert paused, component
            send(paused, signal.SIGSTOP)
            try:
                enough(attackers)
            finally:
                send(paused, signal.SIGCONT)
            send(paused, signal.SIGKILL)
            enough(attackers)
        if opa is not None:
            opa[0].send_signal(signal.SIGSTOP)
            enough(attackers)
            opa[0].kill()
            enough(attackers)
    assert attackers.successes == []
    assert attackers.asked > 20 * len(COMPONENTS)
    if opa is None:
        await_service(stack, model)


def await_service(stack: Stack, model: str) -> None:
    """Whoever has a right is served again, and what was attacked is as it was."""

    def answers() -> bool:
        try:
            found = httpx.get(f"{stack.url}{REGISTRY}/models/{model}", headers=stack.headers, timeout=3)
        except httpx.HTTPError:
            return False
        return found.status_code == 200 and found.json()["description"] == ""

    wait_until(answers, what="the owner's answer", seconds=60)
    keys = httpx.get(f"{stack.url}{GATEWAY}/keys", headers=stack.headers, timeout=20).json()["keys"]
    assert all(Path(key["name"]).name != "x" for key in keys)
