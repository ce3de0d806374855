"""CPU of one request's enforcement: from the headers to a decision that is applied, cached and not."""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clave_common.access.api_keys import ApiKey, new_api_key
from clave_common.access.credentials import LocalVerifier
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.enforcement import Access, start_request
from clave_common.access.engine import EmbeddedEngine, PolicyEngine
from clave_common.access.middleware import presented_by
from clave_common.access.model import Resource
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.service_tokens import ServiceTokenVerifier
from clave_common.access.snapshot import KeyRecord, Snapshot
from clave_gateway.policy_cases import engine_with, read_cases
from clave_gateway.policy_files import read_modules, read_policy, shipped_policy_dir
from joserfc.jwk import KeySet, OKPKey

ROUNDS = 40
"""Short slices: on a shared machine the best of them is the one that nobody disturbed."""
_PEPPER = b"benchmark"
_TICKS = os.sysconf("SC_CLK_TCK")
PREDICTION = {
    "namespace": "Production",
    "status": "approved",
    "contributors": ["user:ada"],
    "features": [],
    "card": {"rate_limit_per_minute": 600000, "allowed_namespaces": ["Production"]},
}


def bundle() -> PolicyBundle:
    """The shipped policy with one application that scores."""
    shipped = read_policy(shipped_policy_dir())
    held = [{"role": "scoring-app", "tenant": "default", "namespaces": ["Production"]}]
    return PolicyBundle(shipped.modules, {**shipped.data, "bindings": {**shipped.data["bindings"], "app:shop": held}})


def snapshot(key: ApiKey, policy: PolicyBundle) -> Snapshot:
    """One key, one policy."""
    record = KeyRecord(key.id, key.mac(_PEPPER), "app:shop", "default", (), ("**",), time.time() + 3600)
    return Snapshot(1, time.time(), MappingProxyType({key.id: record}), policy)


def request(engine: PolicyEngine, policy: PolicyBundle, *, revision: Callable[[], int]) -> Callable[[], Awaitable[Any]]:
    """One request's enforcement: headers, API key, decision on a prediction."""
    key = new_api_key()
    held = snapshot(key, policy)
    own = KeySet([OKPKey.generate_key("Ed25519", {"kid": "gateway"})])
    verifier = LocalVerifier(
        pepper=_PEPPER, snapshot=lambda: held, service_tokens=ServiceTokenVerifier("registry", own)
    )
    newest = [held]

    def current() -> Snapshot:
        if newest[0].revision != revision():
            newest[0] = Snapshot(revision(), held.issued_at, held.keys, held.bundle)
        return newest[0]

    access = Access(LocalDecisionPoint(engine, current))
    scope = {"headers": [(b"authorization", f"Bearer {key.text}".encode())], "client": ("127.0.0.1", 1)}
    resource = Resource("endpoint", "endpoints/churn", {"tenant": "default", **PREDICTION})

    async def one() -> None:
        start_request()
        caller = await verifier.verify(presented_by(scope))
        assert caller is not None
        await access.require(caller, "inference:predict", resource)

    return one


async def cpu_us(work: Callable[[], Awaitable[Any]], *, times: int) -> dict[str, float]:
    """CPU of this process per call, in microseconds: the median and the best of some rounds."""
    rounds = []
    await work()
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            await work()
        rounds.append((time.process_time() - began) / times * 1e6)
    return {"median": round(statistics.median(rounds), 1), "best": round(min(rounds), 1)}


async def measure(opa: str | None) -> dict[str, Any]:
    """Enforcement on the embedded engine, and on a real OPA where one is given."""
    policy = bundle()
    embedded = EmbeddedEngine()
    embedded.use(policy)
    found: dict[str, Any] = {
        "cached_us": await cpu_us(request(embedded, policy, revision=lambda: 1), times=500),
        "uncached_us": await cpu_us(request(embedded, policy, revision=_counting()), times=60),
        "matrix_us": await _matrix(),
    }
    found["decisions_per_s"] = round(1e6 / found["uncached_us"]["best"])
    if opa is not None:
        found["opa"] = await _with_opa(opa, policy)
    return found


def _counting() -> Callable[[], int]:
    """Revisions that change at every second look: each request meets one of its own."""
    count = [0]

    def revision() -> int:
        count[0] += 1
        return count[0]

    return revision


async def _matrix() -> dict[str, float]:
    cases = read_cases(shipped_policy_dir() / "cases" / "decisions.json")
    engine = EmbeddedEngine()
    engine.use(PolicyBundle(read_modules(shipped_policy_dir() / "clave"), cases.data))

    async def every() -> None:
        for case in cases.cases:
            await engine.decide(case["input"])

    whole = await cpu_us(every, times=1)
    return {name: round(value / len(cases.cases), 1) for name, value in whole.items()}


async def _with_opa(program: str, policy: PolicyBundle) -> dict[str, Any]:
    async with engine_with(policy, "opa", opa=program) as engine:
        process = _child_named(Path(program).name)
        one = request(engine, policy, revision=_counting())
        await one()
        times, before, began = 500, _cpu_s(process), time.perf_counter()
        mine = time.process_time()
        for _ in range(times):
            await one()
        mine = time.process_time() - mine
        wall, theirs = time.perf_counter() - began, _cpu_s(process) - before
        together = time.perf_counter()
        for _ in range(25):
            await asyncio.gather(*(one() for _ in range(20)))
        return {
            "service_us": round(mine / times * 1e6, 1),
            "server_us": round(theirs / times * 1e6, 1),
            "wall_us": round(wall / times * 1e6, 1),
            "decisions_per_s": round(500 / (time.perf_counter() - together)),
        }


def _child_named(name: str) -> int:
    """The process that this one started under a name."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid() and (folder / "comm").read_text().strip() == name:
                return int(folder.name)
        except OSError:
            continue
    raise RuntimeError(f"no process {name}")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
