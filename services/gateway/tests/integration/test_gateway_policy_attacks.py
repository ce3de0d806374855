"""Attack 20: no policy comes into force but by the gateway's own steps, and none reaches beyond its packages."""

from collections.abc import AsyncIterator

import pytest
from clave_testing.inner_gateway import API, InnerGateway, inner_gateway

pytestmark = pytest.mark.integration
ALLOW_ALL = (
    'package clave.authz\n\nimport rego.v1\n\ndecision := {"allow": true, "reasons": [], "policy_version": "x", '
    '"obligations": {"rate_limit": {"per_minute": 9, "burst": 9}, "mask": [], "audit": "sampled", "cache_ttl_s": 0}}\n'
)


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InnerGateway]:
    async with inner_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


async def uploaded(gateway: InnerGateway) -> int:
    active = (await gateway.send("GET", "/policies")).json()["active"]
    data = (await gateway.send("GET", f"/policies/{active}")).json()["data"]
    made = await gateway.send("POST", "/policies", {"data": {**data, "version": "candidate"}})
    assert made.status_code == 201, made.text
    return int(made.json()["version"])


async def planned(gateway: InnerGateway, version: int) -> dict[str, int]:
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
async def test_a_module_that_reaches_beyond_the_policy_is_refused(gateway: InnerGateway, text: str) -> None:
    active = (await gateway.send("GET", "/policies")).json()["active"]
    modules = (await gateway.send("GET", f"/policies/{active}")).json()["modules"]
    answer = await gateway.send("POST", "/policies", {"modules": {**modules, "extra.rego": text}})
    assert (answer.status_code, answer.json()["code"]) == (422, "policy_invalid"), answer.text


@pytest.mark.parametrize("name", ["../evil.rego", "a/b.rego", "%2e%2e.rego", "x.rego\n", "data.json", ""])
async def test_a_modules_name_is_no_path(gateway: InnerGateway, name: str) -> None:
    answer = await gateway.send("POST", "/policies", {"modules": {name: "package clave.authz\n"}})
    assert answer.status_code == 422, answer.text


async def test_a_policy_altered_in_the_database_is_neither_activated_nor_kept_in_force(gateway: InnerGateway) -> None:
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
    await gateway.until(lambda answer: answer.status_code == 200)


async def test_a_policy_whose_signature_is_not_the_gateways_is_not_activated(gateway: InnerGateway) -> None:
    version = await uploaded(gateway)
    accepted = await planned(gateway, version)
    gateway.break_in("update gateway.policy_bundles set signature = repeat('A', 86) where version = %s", version)
    answer = await gateway.send("POST", f"/policies/{version}/activate", accepted)
    assert answer.json()["code"] == "policy_unsigned", answer.text
