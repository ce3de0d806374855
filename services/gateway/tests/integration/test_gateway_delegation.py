"""Nobody reaches further by what speaks for somebody else: keys, principals and questions about them."""

from collections.abc import AsyncIterator

import pytest
from clave_common.pages import encode_token
from clave_testing.inner_gateway import InnerGateway, inner_gateway

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InnerGateway]:
    async with inner_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
async def lead(gateway: InnerGateway) -> str:
    """A tenant's administrator who is an engineer in Development alone."""
    key = await gateway.key_of("lead", "tenant-admin")
    bound = {"subject": "user:lead", "role": "ml-engineer", "namespaces": ["Development"]}
    assert (await gateway.send("POST", "/bindings", bound)).status_code == 201
    await gateway.until(lambda answer: "ml-engineer" in answer.text, "/whoami", key=key)
    return key


async def test_a_key_for_somebody_else_reaches_no_further_than_its_maker(gateway: InnerGateway, lead: str) -> None:
    await gateway.key_of("petra", "ml-engineer", namespaces=["Production"])
    deploy = {"name": "petra", "kind": "user", "role": "ml-engineer", "scopes": ["inference:deployment.*"]}
    taken = await gateway.send("POST", "/keys", {**deploy, "namespaces": ["Production"]}, key=lead)
    assert (taken.status_code, "privilege_escalation" in taken.text) == (403, True), taken.text
    own = {**deploy, "name": "lead", "namespaces": ["Development"]}
    assert (await gateway.send("POST", "/keys", own, key=lead)).status_code == 201
    shop = {"name": "shop", "role": "scoring-app"}
    for _ in range(2):
        made = await gateway.send("POST", "/keys", shop, key=lead)
        assert made.status_code == 201, made.text


async def test_a_key_is_rotated_only_by_who_could_have_made_it(gateway: InnerGateway, lead: str) -> None:
    asked = {"name": "paul", "kind": "user", "role": "ml-engineer", "namespaces": ["Production"]}
    made = (await gateway.send("POST", "/keys", {**asked, "scopes": ["inference:deployment.*"]})).json()
    await gateway.until(lambda answer: "user:paul" in answer.text, "/bindings")
    taken = await gateway.send("POST", f"/keys/{made['id']}/rotate", key=lead)
    assert (taken.status_code, "privilege_escalation" in taken.text) == (403, True), taken.text
    assert (await gateway.send("POST", f"/keys/{made['id']}/rotate")).status_code == 201


async def test_no_tenants_administrator_touches_the_platforms_own(gateway: InnerGateway, lead: str) -> None:
    keys = (await gateway.send("GET", "/keys?page_size=1000")).json()["keys"]
    (first,) = (one["id"] for one in keys if one["principal"] == "user:admin" and one["created_by"].startswith("serv"))
    attempts = [
        ("POST", "/keys", {"name": "admin", "kind": "user", "role": "viewer", "scopes": ["admin:key.list"]}),
        ("PATCH", "/principals/user:admin", {"disabled": True}),
        ("DELETE", "/principals/user:admin", None),
        ("POST", f"/keys/{first}/rotate", None),
        ("DELETE", f"/keys/{first}", None),
    ]
    for method, path, body in attempts:
        answer = await gateway.send(method, path, body, key=lead)
        assert (answer.status_code, "tenant_mismatch" in answer.text) == (403, True), (method, path, answer.text)
    second = await gateway.send("POST", "/keys", {"name": "admin", "kind": "user", "role": "admin"})
    assert second.status_code == 201, second.text
    assert (await gateway.send("DELETE", f"/keys/{second.json()['id']}")).status_code == 204


async def test_the_secret_of_a_key_is_told_once_and_kept_nowhere(gateway: InnerGateway) -> None:
    asked = {"name": "repeated", "role": "viewer"}
    first = await gateway.send("POST", "/keys", asked, headers={"idempotency-key": "once"})
    again = await gateway.send("POST", "/keys", asked, headers={"idempotency-key": "once"})
    assert (first.status_code, again.status_code, again.json()["code"]) == (201, 409, "secret_shown_once"), again.text
    assert again.json()["id"] == first.json()["id"]
    secret = first.json()["key"].encode()
    kept = [bytes(body) for (body,) in gateway.stored("select body from gateway.idempotency_keys")]
    assert len(kept) == 1
    assert not any(secret in body for body in kept)


async def test_nobody_asks_what_anothers_people_may_do(gateway: InnerGateway, lead: str) -> None:
    gateway.break_in(
        "insert into gateway.principals (id, kind, tenant, groups, disabled, created_by, created_at) "
        "values ('user:rita', 'user', 'rival', '{}', false, 'user:admin', now())"
    )

    def asked(subject: str) -> dict[str, object]:
        return {
            "subject": {"type": "user", "id": subject},
            "action": {"name": "registry:model.read"},
            "resource": {"type": "model", "id": "models/churn", "properties": {"tenant": "rival"}},
        }

    who = {"authorization": f"Bearer {lead}"}
    for path, body in (
        ("/access/v1/evaluation", asked("user:rita")),
        ("/access/v1/evaluations", {"evaluations": [asked("user:lead"), asked("user:rita")]}),
    ):
        answer = await gateway.http.post(path, json=body, headers=who)
        assert (answer.status_code, "tenant_mismatch" in answer.text) == (403, True), answer.text
        assert (await gateway.http.post(path, json=body, headers=gateway.admin)).status_code == 200
    assert (await gateway.http.post("/access/v1/evaluation", json=asked("user:petra"), headers=who)).status_code == 200


@pytest.mark.parametrize("position", [[], [None], ["x", "y"], [{}], [1e400], [True, 1], ["9" * 5000, "k"]])
async def test_a_page_token_of_ones_own_making_is_refused(gateway: InnerGateway, position: list[object]) -> None:
    for path, query in (("/keys", "keys"), ("/audit", "audit:None:None:None:None:None")):
        token = encode_token(position, query=query)
        answer = await gateway.send("GET", f"{path}?page_token={token}")
        assert (answer.status_code, answer.json()["field"]) == (422, "page_token"), (path, answer.text)
