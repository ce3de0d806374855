"""The end of a process, and the replacement of one worker after the other, under load: no request is lost."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from clave_testing.patience import LONG_S, PATIENCE_S, wait_until

pytestmark = pytest.mark.integration
BODY = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}]}


@dataclass
class Outcomes:
    """What callers saw."""

    statuses: list[int] = field(default_factory=list)
    never_connected: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.never_connected > 0


async def once(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; the caller sets the deadline."""
    while not condition():  # noqa: ASYNC110  the condition is another process's
        await asyncio.sleep(0.02)


async def ask_once(client: httpx.AsyncClient, outcomes: Outcomes, **headers: str) -> None:
    try:
        answer = await client.post("/v2/models/churn/infer", json=BODY, headers=headers)
        outcomes.statuses.append(answer.status_code)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        outcomes.never_connected += 1  # nothing was sent
    except httpx.TransportError as fault:  # it was sent and never answered
        outcomes.lost.append(repr(fault))


async def callers(service: Any, outcomes: Outcomes, *, keep_alive: bool, count: int, until: Any) -> None:
    async def caller() -> None:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1 if keep_alive else 0)
        headers = service.headers if keep_alive else {**service.headers, "connection": "close"}
        async with httpx.AsyncClient(
            base_url=service.url, headers=headers, limits=limits, timeout=PATIENCE_S
        ) as client:
            while not until():
                await ask_once(client, outcomes)

    await asyncio.gather(*(caller() for _ in range(count)))


@pytest.mark.parametrize("keep_alive", [True, False])
def test_sigterm_answers_every_request_that_was_sent(service: Any, keep_alive: bool) -> None:
    outcomes = Outcomes()

    async def load() -> None:
        task = asyncio.create_task(
            callers(service, outcomes, keep_alive=keep_alive, count=12, until=lambda: outcomes.ended)
        )
        async with asyncio.timeout(LONG_S):
            await once(lambda: len(outcomes.statuses) >= 100)
            service.process.send_signal(signal.SIGTERM)
            await task

    asyncio.run(load())
    assert outcomes.lost == []
    assert set(outcomes.statuses) == {200}
    assert service.process.wait(PATIENCE_S) in {0, -signal.SIGTERM}


# gRPC's own server cancels calls that arrive in the instant of its end: its clients need a retry policy.
GRPC_LOAD = """
import sys, threading, json, grpc
from clave_contracts.inference_grpc import open_inference_pb2 as pb
address, key = sys.argv[1:3]
message = pb.ModelInferRequest(model_name="churn")
message.inputs.add(name="input", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([0.1, 0.2, 0.3, 0.4])
body, over, answered, failed = message.SerializeToString(), threading.Event(), [0], []
RETRY = {"maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
         "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]}
CONFIG = {"methodConfig": [{"name": [{}], "retryPolicy": RETRY}]}
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.service_config", json.dumps(CONFIG))]
def caller():
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        while not over.is_set():
            try:
                infer(body, metadata=[("authorization", "Bearer " + key)], wait_for_ready=True, timeout=60)
                answered[0] += 1
            except grpc.RpcError as error:
                failed.append(f"{error.code()} {error.details()}")
threads = [threading.Thread(target=caller) for _ in range(4)]
[thread.start() for thread in threads]
sys.stdin.read()
over.set()
[thread.join() for thread in threads]
print(answered[0], len(failed), sorted(set(failed)))
"""


def workers_of(service: Any) -> set[int]:
    pid = service.process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.parametrize("workers", [2])
def test_a_rolling_restart_of_the_workers_loses_nothing(service: Any) -> None:
    outcomes, done = Outcomes(), False
    wait_until(lambda: len(workers_of(service)) == 2, what="two workers")
    before = workers_of(service)
    over_grpc = subprocess.Popen(
        [sys.executable, "-c", GRPC_LOAD, f"127.0.0.1:{service.grpc_port}", service.peers.key.text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    async def load() -> None:
        nonlocal done
        tasks = [
            asyncio.create_task(callers(service, outcomes, keep_alive=keep, count=4, until=lambda: done))
            for keep in (True, False)
        ]
        service.process.send_signal(signal.SIGHUP)
        try:
            async with asyncio.timeout(LONG_S):
                await once(lambda: len(workers_of(service) - before) == 2)
        finally:
            done = True
        await asyncio.gather(*tasks)

    asyncio.run(load())
    said = over_grpc.communicate(timeout=LONG_S)[0].splitlines()[-1].split(maxsplit=2)
    assert outcomes.lost == []
    assert outcomes.never_connected == 0
    assert set(outcomes.statuses) == {200}
    assert int(said[0]) > 0
    assert said[1:] == ["0", "[]"]
    assert service.stop() == 0


def figures(service: Any) -> dict[str, float]:
    """Sum a scrape's samples by name, on a connection of its own: the kernel chooses who answers."""
    with httpx.Client(base_url=service.url, timeout=PATIENCE_S) as client:
        lines = client.get("/metrics").text.splitlines()
    sums: dict[str, float] = {}
    for line in lines:
        if not line.startswith("#"):
            name = line.partition("{")[0].partition(" ")[0]
            sums[name] = sums.get(name, 0.0) + float(line.rpartition(" ")[2])
    return sums


@pytest.mark.parametrize("workers", [2])
def test_any_worker_tells_the_figures_of_all_and_no_death_takes_them_back(service: Any) -> None:
    wait_until(lambda: len(workers_of(service)) == 2, what="two workers")
    counted = ("clave_predictions_total", "clave_inference_duration_seconds_count", "clave_prediction_score_count")

    def ask(times: int) -> None:
        for _ in range(times):  # a connection each, so that both workers answer
            answer = httpx.post(
                f"{service.url}/v2/models/churn/infer", json=BODY, headers=service.headers, timeout=PATIENCE_S
            )
            assert answer.status_code == 200, answer.text
            assert (
                httpx.get(f"{service.url}/v2/models/churn", headers=service.headers, timeout=PATIENCE_S).status_code
                == 200
            )

    def settled(count: int) -> bool:
        """Whether scrape after scrape, of either worker, tells exactly so much."""
        seen = [figures(service) for _ in range(12)]
        return all(
            {sums.get(name) for name in counted} == {count}
            and sums["clave_prediction_log_records_total"] == count
            and sums["clave_inference_http_requests_total"] == count
            for sums in seen
        )

    ask(30)
    wait_until(lambda: settled(30), what="30 in every scrape")
    before = workers_of(service)
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(workers_of(service) - {killed}) == 2, what="a new worker")
    wait_until(lambda: settled(30), what="the same 30 again")
    ask(10)
    wait_until(lambda: settled(40), what="40 in every scrape")
    assert workers_of(service) & before == before - {killed}
