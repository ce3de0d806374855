"""Attack 1: every component is paused and killed in turn while attackers ask without a pause, on a stack of its own.

Whatever is away, nobody gets in: not one attacker is answered. Beside them somebody with a right asks for a prediction,
a read and a change: what needs nothing of what is away goes on, and everything else is refused with 503 and the reason.
"""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from clave_testing.patience import PATIENCE_S, wait_until
from clave_testing.served_models import ROW, serve_model
from clave_testing.servers import session_root
from clave_testing.stack import Stack, start_part, stop_command
from clave_testing.tenants import make_rival

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
# What goes on, asked for at the services' own ports, while a component is away.
GOES_ON = {
    "gateway": {"prediction", "read", "change"},
    "postgres": {"prediction"},
    "valkey": {"prediction", "read", "change"},
    "inference": {"read", "change"},
    "registry": {"prediction"},
    "edge": {"prediction", "read", "change"},
    "opa": {"prediction"},  # inference then decides by the same signed policy on an engine of its own
}
# Databases and the edge are back in a moment; a killed service takes seconds, so these come last.
COMPONENTS = ("postgres", "valkey", "edge", "gateway", "registry", "inference")
# Who is not there cannot refuse: no answer is as good as a refusal then.
SILENT = {"inference": {"prediction"}, "registry": {"read", "change"}}
REASONS = {"postgres": {"database_unavailable"}, "opa": {"policy_unavailable"}}
PHASE_S = 1.0
ANSWER_S_MAX = 12.0
KINDS = {"prediction", "read", "change"}
REGISTRY = "/api/registry/v1"
GATEWAY = "/api/gateway/v1"
GRPC = "/inference.GRPCInferenceService/"


class Askers:
    """Threads that ask until they are told to stop."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


class Attackers(Askers):
    """They ask for what they may not have; every success is kept."""

    def __init__(self, attacks: list[Callable[[], str | None]]):
        super().__init__()
        self.attacks = attacks
        self.asked = 0
        self.successes: list[str] = []
        self.threads = [
            threading.Thread(target=self.attack, args=(start,))
            for start in range(0, len(attacks), max(1, len(attacks) // 8))
        ]

    def attack(self, start: int) -> None:
        number = start
        while not self.stop.wait(0.01):
            found = self.attacks[number % len(self.attacks)]()
            number += 1
            self.asked += 1
            if found is not None:
                self.successes.append(found)


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
        yield start_part(data_dir, ("gateway", "registry", "inference"))
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
    wrong_audience = ServiceTokenMinter.from_file("inference", stack.data_dir / "secrets" / "inference.pem").token(
        "nobody"
    )
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


@dataclass
class Asked:
    """One answer to somebody with a right: 0 = none came."""

    what: str
    began: float
    status: int
    code: str


class Entitled(Askers):
    """Somebody who may, a thread for each kind of request; every answer is kept."""

    def __init__(self, stack: Stack, model: str):
        super().__init__()
        inference, registry = (stack.services[name]["http"] for name in ("inference", "registry"))
        self.answers: list[Asked] = []
        of_model = f"{registry}{REGISTRY}/models/{model}"
        self.threads = [
            threading.Thread(target=self.ask, args=(what, method, url, body, stack.headers))
            for what, method, url, body in (
                ("prediction", "POST", f"{inference}/v2/models/{model}/infer", ROW),
                ("read", "GET", of_model, None),
                ("change", "PATCH", of_model, {"description": ""}),
            )
        ]

    def ask(self, what: str, method: str, url: str, body: object, headers: dict[str, str]) -> None:
        while not self.stop.wait(0.1):
            began = time.monotonic()
            try:
                answer = httpx.request(method, url, json=body, headers=headers, timeout=ANSWER_S_MAX)
            except httpx.HTTPError:
                self.answers.append(Asked(what, began, 0, ""))
                continue
            code = answer.json().get("code", "") if answer.status_code >= 400 else ""
            self.answers.append(Asked(what, began, answer.status_code, code))


@dataclass
class Scene:
    """Who asks, and what is judged after each phase.

    Attributes:
        restarting: What nobody may be there to answer, because its process was killed and starts again.
    """

    attackers: Attackers
    entitled: Entitled
    restarting: set[str] = field(default_factory=set)

    def phase(self, component: str, *, until: Callable[[list[Asked]], bool] | None = None) -> None:
        """Let everybody ask for a while: until each kind of request was answered, and `until` holds."""
        begin = time.monotonic()
        threading.Event().wait(PHASE_S)

        def answers() -> list[Asked]:
            return [each for each in self.entitled.answers if each.began >= begin]

        wait_until(
            lambda: {each.what for each in answers()} == KINDS and (until is None or until(answers())),
            what=f"answers while {component} is away",
        )
        assert not self.attackers.successes, self.attackers.successes
        for each in answers():
            allowed = {200}
            if each.what not in GOES_ON.get(component, ()):
                allowed |= {503}
            if each.what in SILENT.get(component, set()) | self.restarting:
                allowed |= {0, 503}
            assert each.status in allowed, (component, each)
            if each.status == 503 and component in REASONS and each.what not in self.restarting:
                assert each.code in REASONS[component], (component, each)


def test_nobody_gets_in_while_anything_is_paused_or_killed(
    own_stack: Stack, opa: tuple[subprocess.Popen[bytes], str] | None
) -> None:
    stack = own_stack
    model = f"victim-{uuid4().hex[:8]}"
    serve_model(stack, model)
    attackers, entitled = Attackers(attacks_on(stack, model)), Entitled(stack, model)
    with attackers, entitled:
        scene = Scene(attackers, entitled)
        for component in COMPONENTS:
            paused = pids(stack, component)
            assert paused, component
            send(paused, signal.SIGSTOP)
            try:
                scene.phase(component)
            finally:
                send(paused, signal.SIGCONT)
            wait_until(lambda: is_served(entitled), what=f"everything after the pause of {component}")
        if opa is not None:
            opa[0].send_signal(signal.SIGSTOP)
            scene.phase("opa", until=lambda answers: all(ended_refused(answers, what) for what in ("read", "change")))
            opa[0].send_signal(signal.SIGCONT)
            wait_until(lambda: is_served(entitled), what="everything after the pause of OPA")
        for component in COMPONENTS:
            send(pids(stack, component), signal.SIGKILL)
            scene.restarting |= SILENT.get(component, set())
            scene.phase(component)
            if component == "postgres":
                wait_until(lambda: is_served(entitled), what="everything after the death of Postgres")
        if opa is not None:
            opa[0].kill()
            scene.phase("opa")
    assert attackers.successes == []
    assert attackers.asked > 20 * len(COMPONENTS)
    if opa is None:
        await_service(stack, model)


def is_served(entitled: Entitled) -> bool:
    """The newest answer of every kind is a good one."""
    newest = {each.what: each.status for each in entitled.answers}
    return set(newest.values()) == {200}


def ended_refused(answers: list[Asked], what: str) -> bool:
    """A kind of request was refused in the end: what was remembered is used up."""
    return [each.status for each in answers if each.what == what][-1:] == [503]


def await_service(stack: Stack, model: str) -> None:
    """Whoever has a right is served again, and what was attacked is as it was."""

    def answers() -> bool:
        try:
            found = httpx.get(f"{stack.url}{REGISTRY}/models/{model}", headers=stack.headers, timeout=3)
        except httpx.HTTPError:
            return False
        return found.status_code == 200 and found.json()["description"] == ""

    wait_until(answers, what="the owner's answer")
    keys = httpx.get(f"{stack.url}{GATEWAY}/keys", headers=stack.headers, timeout=PATIENCE_S).json()["keys"]
    assert all(Path(key["name"]).name != "x" for key in keys)
