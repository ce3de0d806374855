"""A gateway that serves in this process, without a port: its administrator's key and its database's superuser."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from clave_common.migrations import migrate
from clave_common.settings import PeerSettings
from clave_gateway.app import Settings, create_app
from clave_gateway.storage.tables import metadata

from clave_testing.patience import eventually
from clave_testing.servers import new_database, new_redis, superuser_url

API = "/api/gateway/v1"


@dataclass
class InnerGateway:
    """A gateway that serves in this process, and its database's superuser."""

    http: httpx.AsyncClient
    admin: dict[str, str]
    database: str

    async def send(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Ask the API, as the administrator or with a key."""
        who = self.admin if key is None else {"authorization": f"Bearer {key}"}
        return await self.http.request(method, f"{API}{path}", json=body, headers={**who, **(headers or {})})

    async def key_of(self, name: str, role: str, **asked: Any) -> str:
        """Make a user with a role; gives its key once it works."""
        made = await self.send("POST", "/keys", {"name": name, "role": role, "kind": "user", **asked})
        assert made.status_code == 201, made.text
        key = str(made.json()["key"])
        await self.until(lambda answer: answer.status_code not in {401, 403}, "/whoami", key=key)
        return key

    async def until(
        self, holds: Callable[[httpx.Response], bool], path: str = "/keys", *, key: str | None = None
    ) -> None:
        """Wait until an answer is as expected."""

        async def answered() -> bool:
            return holds(await self.send("GET", path, key=key))

        await eventually(answered, what=f"the answer at {path}")

    def break_in(self, query: str, *facts: object) -> None:
        """Change the database as its superuser."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(query, facts)

    def stored(self, query: str, *facts: object) -> list[tuple[Any, ...]]:
        """Read the database as its superuser."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            return connection.execute(query, facts).fetchall()


@asynccontextmanager
async def inner_gateway(folder: Path, *, peers: PeerSettings | None = None) -> AsyncIterator[InnerGateway]:
    """Serve a gateway on a database and a Redis of its own for as long as it is needed.

    Args:
        folder: Empty, for its data and secrets.
        peers: What it is told of others, such as an issuer.
    """
    from clave.stack.secrets import ensure_secrets

    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700)
    ensure_secrets(secrets, ("gateway",))
    url = new_database("gateway")
    migrate(url=url, package="clave_gateway", metadata=metadata)
    app = create_app(
        Settings(
            http_port=47321,
            database_url=url,
            redis_url=new_redis(),
            data_dir=folder / "data",
            secrets_dir=secrets,
            blob_url=(folder / "blobs").as_uri(),
            peers=peers or PeerSettings(refusals_per_minute=0),  # tests wait for rights by being refused
        )
    )
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway") as http,
    ):
        admin = {"authorization": f"Bearer {(secrets / 'admin.key').read_text().strip()}"}
        running = InnerGateway(http, admin, superuser_url(url))
        await running.until(lambda answer: answer.status_code == 200)
        yield running
