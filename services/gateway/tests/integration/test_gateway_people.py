"""Users, service accounts, applications and groups, through the API and by the commands that people type."""

import asyncio
import json
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from clave_common.migrations import migrate
from clave_gateway.app import Settings, create_app
from clave_gateway.storage.tables import metadata
from clave_testing.servers import BUSY_S

pytestmark = pytest.mark.integration
API = "/api/gateway/v1"


class Live:
    """A gateway that listens on loopback."""

    def __init__(self, url: str, admin: str, home: Path) -> None:
        self.url, self.admin, self.home = url, admin, home

    async def send(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url) as http:
            headers = {"authorization": f"Bearer {key or self.admin}"}
            return await http.request(method, f"{API}{path}", json=body, headers=headers)

    async def answers(self, status: int, path: str, *, key: str, seconds: float) -> None:
        """Wait until a question is answered so."""
        async with asyncio.timeout(seconds):
            while (await self.send("GET", path, key=key)).status_code != status:  # noqa: ASYNC110 - it is polled
                await asyncio.sleep(0.02)

    async def clave(self, *arguments: str, stdin: str = "") -> Any:
        """Type a command; gives its JSON."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clave", *arguments, "--output", "json"),
            cwd=self.home,
            env={"PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": str(self.home), "HOME": str(self.home)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin.encode())
        assert process.returncode == 0, (arguments, err.decode())
        return json.loads(out)


@pytest.fixture
async def live(
    service_database: Callable[[str], str], redis_url: str, secrets_dir: Path, tmp_path: Path
) -> AsyncIterator[Live]:
    url = service_database("gateway")
    migrate(url=url, package="clave_gateway", metadata=metadata)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = create_app(
        Settings(
            http_port=port,
            database_url=url,
            redis_url=redis_url,
            data_dir=tmp_path / "data",
            secrets_dir=secrets_dir,
            blob_url=(tmp_path / "blobs").as_uri(),
        )
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    address = f"http://127.0.0.1:{port}"
    async with asyncio.timeout(20), httpx.AsyncClient(base_url=address) as http:
        while True:
            try:
                if (await http.get("/v2/health/ready")).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    yield Live(address, (secrets_dir / "admin.key").read_text().strip(), tmp_path)
    server.should_exit = True
    await serving


async def test_a_person_logs_in_and_administers_by_commands(live: Live) -> None:
    who = await live.clave("login", live.url, "--key-file", "-", stdin=f"{live.admin}\n")
    assert who["subject"] == "user:admin"
    kept = live.home / "clave" / "profile.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert (await live.clave("whoami"))["roles"] == ["admin"]
    made = await live.clave("principals", "create", "service_account:nightly")
    assert (made["kind"], made["disabled"]) == ("service_account", False)
    await live.clave("bindings", "create", "group:engineers", "--role", "ml-engineer")
    joined = await live.clave("groups", "add", "engineers", "service_account:nightly")
    assert joined["groups"] == ["engineers"]
    assert (await live.clave("groups", "list"))["groups"] == [
        {"name": "engineers", "members": ["service_account:nightly"], "roles": ["ml-engineer"]}
    ]
    assert (await live.clave("groups", "delete", "engineers"))["deleted"] is True
    assert (await live.clave("groups", "list"))["groups"] == []
    assert (await live.clave("logout"))["forgotten"] is True
    assert not kept.exists()


async def test_a_key_is_rotated_with_both_working_and_then_revoked(live: Live) -> None:
    made = (await live.send("POST", "/keys", {"name": "shop", "role": "viewer"})).json()
    successor = (await live.send("POST", f"/keys/{made['id']}/rotate")).json()
    for key in (made["key"], successor["key"]):
        answer = await live.send("GET", "/whoami", key=key)
        assert answer.json()["subject"] == "app:shop"
    assert (await live.send("DELETE", f"/keys/{made['id']}")).status_code == 204
    await live.answers(401, "/whoami", key=made["key"], seconds=BUSY_S)
    assert (await live.send("GET", "/whoami", key=successor["key"])).status_code == 200


async def test_a_removed_principal_loses_keys_roles_and_its_name_for_good(live: Live) -> None:
    key = (await live.send("POST", "/keys", {"name": "gone", "role": "viewer"})).json()["key"]
    assert (await live.send("DELETE", "/principals/app:gone")).status_code == 204
    await live.answers(401, "/whoami", key=key, seconds=BUSY_S)
    bindings = (await live.send("GET", "/bindings")).json()["bindings"]
    assert [one for one in bindings if one["subject"] == "app:gone"] == []
    again = await live.send("POST", "/principals", {"id": "app:gone"})
    assert (again.status_code, again.json()["code"]) == (409, "principal_name_taken")


async def test_only_who_holds_a_groups_roles_may_put_somebody_into_it(live: Live) -> None:
    await live.send("POST", "/bindings", {"subject": "group:bosses", "role": "ml-engineer"})
    giver = (await live.send("POST", "/keys", {"name": "lead", "kind": "user", "role": "tenant-admin"})).json()["key"]
    await live.answers(200, "/principals", key=giver, seconds=BUSY_S)
    made = await live.send("POST", "/principals", {"id": "user:eve", "groups": ["bosses"]}, key=giver)
    assert (made.status_code, "privilege_escalation" in made.text) == (403, True), made.text
    assert (await live.send("POST", "/principals", {"id": "user:eve"}, key=giver)).status_code == 201
    assert (await live.send("DELETE", "/principals/user:nobody", key=giver)).status_code == 404
    assert (await live.send("DELETE", "/groups/none", key=giver)).status_code == 404
