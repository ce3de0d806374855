"""What lasts: memory over many swaps, decisions while the policy server is away, the last good state."""

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from clave_common.errors import Unavailable
from clave_inference.runtime.loaded_version import LoadedVersion
from clave_inference.runtime.session import give_memory_back
from clave_inference.services.admissions import Credential
from clave_inference.services.call import Call, Reply
from clave_inference.services.deploy import Deployment
from clave_inference.services.policy_outage import OutageEngine
from clave_inference.storage.artifact_cache import ArtifactCache
from clave_testing.policies import sample_bundle

BODY = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'


def resident_kb() -> int:
    give_memory_back()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def predict(bench: Any) -> Reply:
    done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    call = Call("rest", "churn", None, Credential(b"Bearer good"), began=time.monotonic(), body=BODY)
    bench.predictions.predict(call, done.set_result)
    return await done


async def test_swapping_versions_leaves_nothing_behind(bench: Any, models: Any) -> None:
    registry = bench.registry

    async def swap(number: int) -> None:
        registry.blobs.clear()
        version = registry.version(number, models(float(number)))
        registry.want([version], [(number, "live", 1.0)])
        await bench.deployment.step()
        assert (await predict(bench)).error is None
        await bench.log.flush()
        bench.stream.entries.clear()

    for number in range(1, 6):
        await swap(number)
    before = resident_kb()
    for number in range(6, 16):
        await swap(number)
    gc.collect()
    alive = [found for found in gc.get_objects() if isinstance(found, LoadedVersion)]
    assert len(alive) <= 2  # the one that serves, and the one a remembered admission may name
    assert resident_kb() - before < 10_000  # `python -m benchmarks.model_swaps` does a thousand


class Server:
    """A policy server that can be away."""

    name = "opa"

    def __init__(self) -> None:
        self.away = False
        self.asked = 0

    async def load(self, _bundle: Any) -> None:
        return

    async def decide(self, _question: Any) -> dict[str, Any]:
        self.asked += 1
        if self.away:
            raise Unavailable("away")
        return {"allow": True, "reasons": []}

    async def visible(self, _question: Any) -> list[Any]:
        if self.away:
            raise Unavailable("away")
        return []


def question(action: str = "inference:predict") -> dict[str, Any]:
    return {
        "subject": {"type": "app", "id": "app:nobody", "properties": {"tenant": "default", "groups": []}},
        "action": {"name": action},
        "resource": {"type": "endpoint", "id": "endpoints/churn", "properties": {"tenant": "default"}},
        "context": {"source_ip": None, "auth": {"method": "api_key", "expires_at": 9e9, "scopes": []}, "time": 1e9},
    }


async def test_the_same_policy_decides_while_its_server_is_away() -> None:
    clock, server = [0.0], Server()
    engine = OutageEngine(server, now=lambda: clock[0])
    with pytest.raises(Unavailable):
        server.away = True
        await engine.decide(question())
    await engine.load(sample_bundle())
    clock[0] = 2.0
    decision = await engine.decide(question())
    assert (decision["allow"], engine.name) == (False, "embedded")  # nobody granted anything to this caller
    asked = server.asked
    await engine.decide(question())
    assert server.asked == asked  # it is not asked again at once
    server.away, clock[0] = False, 4.0
    assert (await engine.decide(question()))["allow"] is True
    assert engine.name == "opa"


async def test_a_damaged_last_good_state_is_no_obstacle(bench: Any, tmp_path: Path) -> None:
    await bench.deployment.step()
    saved = tmp_path / "desired.json"
    good = saved.read_bytes()
    for damaged in (b"", b"{", orjson.dumps({"revision": 1})):
        saved.write_bytes(damaged)
        cold = Deployment(registry=bench.registry, cache=ArtifactCache(tmp_path), instance="c", check=lambda _p: None)
        await cold.start_from_disk()
        assert not cold.table.known
    saved.write_bytes(good)
    for blob in (tmp_path / "blobs").iterdir():
        blob.write_bytes(b"other bytes")
    cold = Deployment(registry=bench.registry, cache=ArtifactCache(tmp_path), instance="c", check=lambda _p: None)
    await cold.start_from_disk()
    assert "not in the local cache" in cold.table.failed[("churn", 1)]
    await cold.step()
    assert cold.table.target("churn", None, None).loaded.version == 1
