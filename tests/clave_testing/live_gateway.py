"""A gateway that listens on loopback, its administrator's key, and the commands that people type at it."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from clave_common.migrations import migrate
from clave_gateway.app import Settings, create_app
from clave_gateway.storage.tables import metadata

from clave_testing.patience import BUSY_S, PATIENCE_S

API = "/api/gateway/v1"


class LiveGateway:
    """A running gateway.

    Attributes:
        admin: The administrator's key.
        home: Where commands keep their profile.
        data: The gateway's data directory.
        database: Address of its database.
    """

    def __init__(self, url: str, *, admin: str, home: Path, data: Path, database: str) -> None:
        self.url, self.admin, self.home, self.data, self.database = url, admin, home, data, database

    async def send(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
        """Ask the API."""
        async with httpx.AsyncClient(base_url=self.url) as http:
            headers = {"authorization": f"Bearer {key or self.admin}"}
            return await http.request(method, f"{API}{path}", json=body, headers=headers)

    async def answers(self, status: int, path: str, *, key: str, seconds: float = BUSY_S) -> None:
        """Wait until a question is answered so."""
        async with asyncio.timeout(seconds):
            while (await self.send("GET", path, key=key)).status_code != status:  # noqa: ASYNC110 - it is polled
                await asyncio.sleep(0.02)

    async def clave(self, *arguments: str, stdin: str = "", key: str | None = None) -> Any:
        """Type a command that succeeds; gives its JSON."""
        status, out, err = await self._typed(*arguments, stdin=stdin, key=key)
        assert status == 0, (arguments, err)
        return json.loads(out)

    async def refused(self, *arguments: str, key: str | None = None) -> str:
        """Type a command that fails; gives what it says."""
        status, out, err = await self._typed(*arguments, stdin="", key=key)
        assert status != 0, (arguments, out)
        return err

    async def _typed(self, *arguments: str, stdin: str, key: str | None) -> tuple[int, str, str]:
        speaking = {} if key is None else {"CLAVE_URL": self.url, "CLAVE_API_KEY": key}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clave", *arguments, "--output", "json"),
            cwd=self.home,
            env={"PATH": os.defpath, "XDG_CONFIG_HOME": str(self.home), "HOME": str(self.home), **speaking},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin.encode())
        return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def live_gateway(folder: Path, *, database: str, redis_url: str, secrets: Path) -> AsyncIterator[LiveGateway]:
    """Serve a gateway for as long as it is needed."""
    migrate(url=database, package="clave_gateway", metadata=metadata)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    app = create_app(
        Settings(
            http_port=port,
            database_url=database,
            redis_url=redis_url,
            data_dir=data,
            secrets_dir=secrets,
            blob_url=(folder / "blobs").as_uri(),
        )
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    address = f"http://127.0.0.1:{port}"
    try:
        await _ready(address)
        admin = (secrets / "admin.key").read_text().strip()
        yield LiveGateway(address, admin=admin, home=folder, data=data, database=database)
    finally:
        server.should_exit = True
        await serving


async def _ready(address: str) -> None:
    async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient(base_url=address) as http:
        while True:
            try:
                if (await http.get("/v2/health/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
