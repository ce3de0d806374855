"""What Postgres and Valkey take part in: audit appends and verification, rate limits, revocation."""

import asyncio
import socket
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from clave_common.access.verification import Presented
from clave_common.access.wiring import open_access
from clave_common.audit_signatures import AuditSigner, AuditVerifier
from clave_common.background import Background
from clave_common.clock import SystemClock
from clave_common.database import Database
from clave_common.errors import Unauthenticated
from clave_common.migrations import migrate
from clave_common.redis_client import connect_redis
from clave_common.settings import PeerSettings, ServiceSettings
from clave_common.streams import Entry
from clave_contracts.events import AuditEntry
from clave_gateway.app import Settings, create_app
from clave_gateway.runtime.sequencer import Sequencer, Witness
from clave_gateway.services.audit import AuditService
from clave_gateway.signing import GatewaySigner
from clave_gateway.storage.tables import metadata

_BATCH = 100
_HAMMER = """
import asyncio, sys, time
from clave_common.access.ratelimit import Limit, RateLimiter
from clave_common.errors import ResourceExhausted
from clave_common.redis_client import connect_redis

async def main(url, seconds):
    limiter = RateLimiter(connect_redis(url))
    limits = [Limit("key", per_second=50, burst=100), Limit("tenant", per_second=10, burst=20)]
    print("ready", flush=True)
    sys.stdin.readline()
    taken, asked, cpu, end = 0, 0, time.process_time(), time.time() + seconds
    while time.time() < end:
        asked += 1
        try:
            await limiter.take(limits)
            taken += 1
        except ResourceExhausted:
            await asyncio.sleep(0.005)
    print(taken, asked, time.process_time() - cpu)

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


async def audit(url: str, secrets: Path, folder: Path, *, entries: int) -> dict[str, Any]:
    """Append entries one batch after the other, then verify the whole log."""
    migrate(url=url, package="clave_gateway", metadata=metadata)
    database = Database(url, metadata, service="gateway")
    signer, witness = GatewaySigner.from_file(secrets / "gateway.pem"), Witness(folder / "witness")
    keys = AuditVerifier.from_files(secrets / "services.jwks.json")
    sequencer = Sequencer(database, signer, witness, origin="clave/bench", clock=SystemClock(), verifier=keys)
    registry = AuditSigner.from_file("registry", secrets / "registry.pem")
    service = AuditService(database, None, signer, witness, sequencer, keys)  # type: ignore[arg-type]  # verify asks nobody
    plain = [_entry(number) for number in range(entries)]
    cpu = time.process_time()
    made = [replace(each, body=registry.signed(each.body)) for each in plain]
    sign_cpu = time.process_time() - cpu
    cpu, began = time.process_time(), time.perf_counter()
    for first in range(0, entries, _BATCH):
        await sequencer.append(made[first : first + _BATCH])
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    await sequencer.checkpoint()
    began = time.perf_counter()
    finding = await service.verify()
    verify_s = time.perf_counter() - began
    await database.close()
    if finding.damage is not None or finding.size != entries:
        raise RuntimeError(f"the log is {finding}")
    return {
        "entries": entries,
        "appends_per_s": round(entries / wall),
        "append_cpu_us": round(cpu / entries * 1e6, 1),
        "sign_cpu_us": round(sign_cpu / entries * 1e6, 1),
        "verify_s": round(verify_s, 2),
    }


def _entry(number: int) -> Entry:
    made = AuditEntry(
        id=f"aud_{number:08d}",
        service="registry",
        actor="user:ada",
        action="registry:model.create",
        resource=f"models/m{number}",
        details={"number": number, "reason": "a benchmark"},
    )
    return Entry("clave.audit.registry", f"{number}-0".encode(), made.id, made.model_dump_json().encode())


async def rate_limits(redis_url: str, *, processes: int, seconds: float) -> dict[str, Any]:
    """Hammer two limits from several processes; the tighter one is 10 a second with a burst of 20."""
    running = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _HAMMER, redis_url, str(seconds)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        await process.stdout.readline()
    began = time.time()
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in running))
    elapsed = time.time() - began
    told = [[float(part) for part in out.split()] for out, _ in outputs]
    taken, asked, cpu = (sum(column) for column in zip(*told, strict=True))
    return {
        "processes": processes,
        "seconds": round(elapsed, 2),
        "allowed": int(taken),
        "bound": round(20 + 10 * elapsed, 1),
        "checks": int(asked),
        "cpu_us_per_check": round(cpu / asked * 1e6, 1),
    }


async def revocation(url: str, redis_url: str, secrets: Path, folder: Path, *, keys: int) -> dict[str, Any]:
    """Time from the answer to a revocation until another service refuses the key."""
    waits = []
    async with _gateway(url, redis_url, secrets, folder) as (http, address):
        peer = ServiceSettings(
            http_port=47399,
            database_url=url,  # type: ignore[arg-type]  # pydantic makes it secret
            redis_url=redis_url,  # type: ignore[arg-type]
            data_dir=folder / "peer",
            secrets_dir=secrets,
            blob_url=folder.as_uri(),
            peers=PeerSettings(gateway_url=address),
        )
        kit = open_access(peer, service="registry", redis=connect_redis(redis_url))
        background = Background()
        following = asyncio.create_task(kit.run(background))
        for number in range(keys):
            made = (await http.post("/keys", json={"name": f"k{number}", "role": "viewer"})).json()
            shown = Presented(f"Bearer {made['key']}", "127.0.0.1")
            await kit.verifier.verify(shown)
            await http.delete(f"/keys/{made['id']}")
            began = time.perf_counter()
            while await _accepted(kit.verifier, shown):  # noqa: ASYNC110 - it is polled
                await asyncio.sleep(0.002)
            waits.append((time.perf_counter() - began) * 1e3)
        following.cancel()
    waits.sort()
    return {"keys": keys, "median_ms": round(waits[len(waits) // 2], 1), "worst_ms": round(waits[-1], 1)}


async def _accepted(verifier: Any, shown: Presented) -> bool:
    try:
        await verifier.verify(shown)
    except Unauthenticated:
        return False
    return True


@asynccontextmanager
async def _gateway(url: str, redis_url: str, secrets: Path, folder: Path) -> Any:
    migrate(url=url, package="clave_gateway", metadata=metadata)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"http_port": port, "database_url": url, "redis_url": redis_url, "blob_url": folder.as_uri()}
    app = create_app(Settings(**settings, data_dir=folder / "gateway", secrets_dir=secrets))  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    serving = asyncio.create_task(server.serve())
    address = f"http://127.0.0.1:{port}"
    async with asyncio.timeout(30), httpx.AsyncClient() as probe_http:
        while True:
            try:
                if (await probe_http.get(f"{address}/v2/health/ready")).status_code == httpx.codes.OK:
                    break
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    headers = {"authorization": f"Bearer {(secrets / 'admin.key').read_text().strip()}"}
    async with httpx.AsyncClient(base_url=f"{address}/api/gateway/v1", headers=headers) as http:
        yield http, address
    server.should_exit = True
    await serving
