"""Attack 20: no policy comes into force but by the gateway's own steps, and none reaches beyond its packages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from clave_common.migrations import migrate
from clave_gateway.app import Settings, create_app
from clave_gateway.storage.tables import metadata
from clave_testing.servers import superuser_url

pytestmark = pytest.mark.integration
API = "/api/gateway/v1"
ALLOW_ALL = (
    'package clave.authz\n\nimport rego.v1\n\ndecision := {"allow": true, "reasons": [], "policy_version": "x", '
    '"obligations": {"rate_limit": {"per_minute": 9, "burst": 9}, "mask": [], "audit": "sampled", "cache_ttl_s": 0}}\n'
)


@dataclass
class Gateway:
    """A gateway that serves in this process, and its database's superuser."""

    http: httpx.AsyncClient
    admin: dict[str, str]
    database: str

    async def send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return await self.http.request(method, f"{API}{path}", json=body, headers=self.admin)

    def break_in(self, query: str, *facts: object) -> None:
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(query, facts)


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    from clave.stack.secrets import ensure_secrets
    from clave_testing.servers import new_database, new_redis

    folder = tmp_path_factory.mktemp("gateway")
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
        )
    )
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway") as http,
    ):
        admin = {"authorization": f"Bearer {(secrets / 'admin.key').read_text().strip()}"}
        running = Gateway(http, admin, superuser_url(url))
        await until(running, lambda answer: answer.status_code == 200)
        yield running


async def until(gateway: Gateway, holds: Callable[[httpx.Response], bool], path: str = "/keys") -> None:
    deadline = asyncio.get_running_loop().time() + 15
    while not holds(await gateway.send("GET", path)):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)


async def uploaded(gateway: Gateway) -> int:
    active = (await gateway.send("GET", "/policies")).json()["active"]
    data = (await gateway.send("GET", f"/policies/{active}")).json()["data"]
    made = await gateway.send("POST", "/policies", {"data": {**data, "version": "candidate"}})
    assert made.status_code == 201, made.text
    return int(made.json()["version"])


async def planned(gateway: Gateway, version: int) -> dict[str, int]:
    plan = (await gateway.send("POST", f"/policies/{version}/plan")).json()
    assert plan["ready"], plan
    return {"accept_differences": len(plan["differences"])}


@pytest.mark.parametrize(
    "text",
    [
        "package system.authz\n\nallow := true\n",
        "package opa\n\nx := 1\n",
        "package clavex\n\nx := 1\n",
        'package clave["../v1/policies"]\n\nx := 1\n',
        "x := 1\n",
        'package clave.extra\n\nx := http.send({"method": "GET", "url": "http://127.0.0.1/"})\n',
        'package clave.extra\n\nx := net.lookup_ip_addr("canary.example")\n',
        "package clave.extra\n\nx := opa.runtime().env\n",
    ],
    ids=["system", "opa", "prefix", "bracket", "none", "request", "look-up", "environment"],
)
async def test_a_module_that_reaches_beyond_the_policy_is_refused(gateway: Gateway, text: str) -> None:
    active = (await gateway.send("GET", "/policies")).json()["active"]
    modules = (await gateway.send("GET", f"/policies/{active}")).json()["modules"]
    answer = await gateway.send("POST", "/policies", {"modules": {**modules, "extra.rego": text}})
    assert (answer.status_code, answer.json()["code"]) == (422, "policy_invalid"), answer.text


@pytest.mark.parametrize("name", ["../evil.rego", "a/b.rego", "%2e%2e.rego", "x.rego\n", "data.json", ""])
async def test_a_modules_name_is_no_path(gateway: Gateway, name: str) -> None:
    answer = await gateway.send("POST", "/policies", {"modules": {name: "package clave.authz\n"}})
    assert answer.status_code == 422, answer.text


async def test_a_policy_altered_in_the_database_is_neither_activated_nor_kept_in_force(gateway: Gateway) -> None:
    version = await uploaded(gateway)
    accepted = await planned(gateway, version)
    gateway.break_in(
        "update gateway.policy_bundles set modules = jsonb_set(modules::jsonb, '{authz.rego}', to_jsonb(%s::text))"
        " where version = %s",
        ALLOW_ALL,
        version,
    )
    answer = await gateway.send("POST", f"/policies/{version}/activate", accepted)
    assert answer.json()["code"] == "policy_altered", answer.text
    active = (await gateway.send("GET", "/policies")).json()["active"]
    gateway.break_in("update gateway.access_state set active_bundle = %s, revision = revision + 1", version)
    try:
        token = await gateway.send("POST", "/keys", {"name": "x", "role": "no-such-role"})
        assert token.status_code in {403, 404, 422}, token.text
        snapshot = await gateway.http.get(f"{API}/snapshot", headers=gateway.admin)
        assert snapshot.status_code in {403, 503}, snapshot.text
    finally:
        gateway.break_in("update gateway.access_state set active_bundle = %s, revision = revision + 1", active)
    await until(gateway, lambda answer: answer.status_code == 200)


async def test_a_policy_whose_signature_is_not_the_gateways_is_not_activated(gateway: Gateway) -> None:
    version = await uploaded(gateway)
    accepted = await planned(gateway, version)
    gateway.break_in("update gateway.policy_bundles set signature = repeat('A', 86) where version = %s", version)
    answer = await gateway.send("POST", f"/policies/{version}/activate", accepted)
    assert answer.json()["code"] == "policy_unsigned", answer.text
