"""With CLAVE_OPA_URL the gateway loads a real OPA server, everybody decides there, and its loss never allows.

Needs an ``opa`` program (PATH, or CLAVE_TEST_OPA). Without one the tests run nothing and warn in capitals.
"""

import asyncio
import os
import socket
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from clave_common.access.opa_engine import OpaEngine
from clave_common.errors import Unavailable
from clave_common.migrations import migrate
from clave_common.settings import PeerSettings
from clave_gateway.app import Settings, create_app
from clave_gateway.storage.tables import metadata
from clave_testing.patience import eventually
from clave_testing.policies import opa_program

pytestmark = pytest.mark.integration
API = "/api/gateway/v1"


@dataclass
class Opa:
    """A real server that can be stopped and started again, empty."""

    program: str
    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(self.program, "run", "--server", "--addr", f"127.0.0.1:{self.port}", "--skip-version-check"),
            *("--log-level", "error"),
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


@pytest.fixture
async def opa() -> AsyncIterator[Opa | None]:
    program = opa_program()
    if program is None:
        warnings.warn("NO REAL OPA: set CLAVE_TEST_OPA or put 'opa' on PATH. OPA MODE IS NOT TESTED.", stacklevel=1)
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Opa(program, port)
    await server.start()
    yield server
    await server.stop()


async def test_the_real_server_decides_and_its_loss_denies(
    opa: Opa | None, service_database: Callable[[str], str], redis_url: str, secrets_dir: Path, tmp_path: Path
) -> None:
    if opa is None:
        return
    url = service_database("gateway")
    migrate(url=url, package="clave_gateway", metadata=metadata)
    settings = Settings(
        http_port=47321,
        database_url=url,
        redis_url=redis_url,
        data_dir=tmp_path / "data",
        secrets_dir=secrets_dir,
        blob_url=(tmp_path / "blobs").as_uri(),
        peers=PeerSettings(opa_url=opa.url),
    )
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway") as http,
    ):
        admin = {"authorization": f"Bearer {(secrets_dir / 'admin.key').read_text().strip()}"}

        async def served() -> bool:
            return (await http.get(f"{API}/keys", headers=admin)).status_code == 200

        await eventually(served, what="a decision by OPA")
        made = await http.post(f"{API}/keys", json={"name": "shop", "role": "viewer"}, headers=admin)
        assert made.status_code == 201, made.text
        shop = {"authorization": f"Bearer {made.json()['key']}"}

        async def bound() -> bool:
            return (await http.get(f"{API}/whoami", headers=shop)).status_code == 200

        await eventually(bound, what="the new binding in OPA")
        refused = await http.get(f"{API}/keys", headers=shop)
        assert (refused.status_code, refused.json()["reasons"]) == (403, ["no_grant"])

        await opa.stop()
        for _ in range(20):
            answer = await http.post(f"{API}/keys", json={"name": "x", "role": "viewer"}, headers=admin)
            assert (answer.status_code, answer.json()["code"]) == (503, "policy_unavailable")
        await opa.start()  # it comes back without any policy: undefined must deny until it is loaded again

        async def refilled() -> bool:
            answer = await http.post(f"{API}/keys", json={"name": "x", "role": "viewer"}, headers=shop)
            assert answer.status_code in {403, 503}
            return answer.status_code == 403

        await eventually(refilled, what="OPA loaded again")


async def test_a_server_that_never_answers_denies_within_its_time_out() -> None:
    silent = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with OpaEngine(f"http://127.0.0.1:{port}", timeout_s=0.2) as engine:
        started = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable):
            await engine.decide({})
        assert asyncio.get_running_loop().time() - started < 1.0
    silent.close()


async def test_an_empty_answer_is_no_decision() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with OpaEngine(f"http://127.0.0.1:{port}") as engine:
        with pytest.raises(Unavailable):
            await engine.decide({})
    server.close()
    assert os.environ.get("CLAVE_OPA_URL") is None
