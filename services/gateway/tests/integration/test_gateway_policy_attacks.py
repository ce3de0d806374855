"""Attack 20: no policy comes into force but by the gateway's own steps, and none reaches beyond its packages."""

import asyncio
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


async def test_what_was_rolled_back_returns_only_by_activation(gateway: InnerGateway) -> None:
    before = (await gateway.send("GET", "/policies")).json()["active"]
    version = await uploaded(gateway)
    accepted = await planned(gateway, version)
    assert (await gateway.send("POST", f"/policies/{version}/activate", accepted)).status_code == 200
    assert (await gateway.send("POST", "/policies/rollback")).json()["version"] == before
    again = await gateway.send("POST", "/policies/rollback")
    assert (again.status_code, again.json()["code"]) == (409, "policy_without_predecessor"), again.text
    assert (await gateway.send("GET", "/policies")).json()["active"] == before


async def test_two_policies_planned_against_the_same_one_do_not_follow_each_other(gateway: InnerGateway) -> None:
    before = (await gateway.send("GET", "/policies")).json()["active"]
    versions = [await uploaded(gateway) for _ in range(2)]
    accepted = [await planned(gateway, version) for version in versions]
    answers = await asyncio.gather(
        *(
            gateway.send("POST", f"/policies/{version}/activate", body)
            for version, body in zip(versions, accepted, strict=True)
        )
    )
    assert min(answer.status_code for answer in answers) == 200
    refused = max(answers, key=lambda answer: answer.status_code)
    assert refused.json()["code"] in {"policy_changed_meanwhile", "policy_plan_stale"}, refused.text
    assert (await gateway.send("POST", "/policies/rollback")).json()["version"] == before


async def test_a_plan_tells_every_decision_that_would_come_out_differently(gateway: InnerGateway) -> None:
    key = await gateway.key_of("nosy", "viewer")
    refused = {(await gateway.send("GET", "/bindings", key=key)).status_code for _ in range(60)}
    assert refused == {403}
    for _ in range(1000):
        ((logged,),) = gateway.stored("select count(*) from gateway.decisions where subject = 'user:nosy'")
        if logged >= 60:
            break
        await asyncio.sleep(0.02)
    active = (await gateway.send("GET", "/policies")).json()["active"]
    data = (await gateway.send("GET", f"/policies/{active}")).json()["data"]
    data["roles"]["viewer"]["permissions"].append("admin:binding.list")
    version = (await gateway.send("POST", "/policies", {"data": data})).json()["version"]
    plan = (await gateway.send("POST", f"/policies/{version}/plan")).json()
    opened = [one for one in plan["differences"] if one["subject"] == "user:nosy" and one["becomes"]["allow"]]
    assert len(opened) == 60
    assert plan["differences"][0]["becomes"]["allow"] is True
    unread = await gateway.send("POST", f"/policies/{version}/activate", {"accept_differences": 50})
    assert unread.json()["code"] == "policy_differences_not_accepted", unread.text
