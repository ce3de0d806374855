"""The gateway through its own door, on real Postgres and Valkey."""

import json
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from clave_common.access.service_tokens import ServiceTokenMinter
from clave_common.migrations import migrate
from clave_gateway.app import Settings, create_app
from clave_gateway.storage.tables import metadata
from clave_testing.patience import BUSY_S, eventually
from redis import Redis

pytestmark = pytest.mark.integration
API = "/api/gateway/v1"


@dataclass
class Running:
    """A gateway that serves in this process."""

    http: httpx.AsyncClient
    admin: str
    secrets: Path
    data: Path
    database_url: str

    def key(self, text: str) -> dict[str, str]:
        return {"authorization": f"Bearer {text}"}

    def service(self, name: str, audience: str = "gateway") -> dict[str, str]:
        token = ServiceTokenMinter.from_file(name, self.secrets / f"{name}.pem").token(audience)
        return {"authorization": f"Bearer {token}"}


@asynccontextmanager
async def serving(database_url: str, redis_url: str, secrets: Path, data: Path) -> AsyncIterator[Running]:
    settings = Settings(
        http_port=47321,
        database_url=database_url,
        redis_url=redis_url,
        data_dir=data,
        secrets_dir=secrets,
        blob_url=(data / "blobs").as_uri(),
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:

            async def ready() -> bool:
                return (await http.get("/v2/health/ready")).status_code == 200

            await eventually(ready, what="readiness")
            yield Running(http, (secrets / "admin.key").read_text().strip(), secrets, data, database_url)


@pytest.fixture
async def gateway(
    service_database: Callable[[str], str], redis_url: str, secrets_dir: Path, tmp_path: Path
) -> AsyncIterator[Running]:
    url = service_database("gateway")
    migrate(url=url, package="clave_gateway", metadata=metadata)
    async with serving(url, redis_url, secrets_dir, tmp_path / "data") as running:
        yield running


async def test_first_start_writes_one_admin_key_that_only_its_owner_reads(gateway: Running) -> None:
    assert stat.S_IMODE((gateway.secrets / "admin.key").stat().st_mode) == 0o600
    answer = await gateway.http.get(f"{API}/whoami", headers=gateway.key(gateway.admin))
    assert answer.status_code == 200, answer.text
    assert answer.json()["subject"] == "user:admin"
    assert answer.json()["roles"] == ["admin"]


async def test_a_key_works_at_once_and_is_refused_after_revocation(gateway: Running) -> None:
    admin = gateway.key(gateway.admin)
    body = {"name": "shop", "role": "viewer"}
    made = await gateway.http.post(f"{API}/keys", json=body, headers=admin)
    assert made.status_code == 201, made.text
    key = made.json()
    answer = await gateway.http.get(f"{API}/whoami", headers=gateway.key(key["key"]))
    assert answer.status_code == 200, answer.text
    assert answer.json()["subject"] == "app:shop"

    async def use_is_known() -> bool:
        listed = (await gateway.http.get(f"{API}/keys", headers=admin)).json()["keys"]
        return next(item for item in listed if item["id"] == key["id"])["last_used_at"] is not None

    await eventually(use_is_known, what="when the key was last used")
    assert (await gateway.http.delete(f"{API}/keys/{key['id']}", headers=admin)).status_code == 204

    async def refused() -> bool:
        return (await gateway.http.get(f"{API}/whoami", headers=gateway.key(key["key"]))).status_code == 401

    await eventually(refused, what="refusal of a revoked key", seconds=BUSY_S)


async def test_without_or_with_a_wrong_credential_nothing_is_answered(gateway: Running) -> None:
    wrong = gateway.admin[:-9] + "0" * 9
    for headers in ({}, gateway.key(wrong), {"authorization": "Basic !!"}, gateway.service("trainer", "registry")):
        answer = await gateway.http.get(f"{API}/keys", headers=headers)
        assert answer.status_code == 401, (headers, answer.text)
        assert answer.headers["content-type"].startswith("application/problem+json")


async def test_basic_with_the_key_as_password_is_the_same_caller(gateway: Running) -> None:
    answer = await gateway.http.get(f"{API}/whoami", auth=httpx.BasicAuth("anything", gateway.admin))
    assert answer.json()["subject"] == "user:admin"


async def test_a_key_cannot_make_a_key_that_may_do_more(gateway: Running) -> None:
    admin = gateway.key(gateway.admin)
    made = await gateway.http.post(
        f"{API}/keys", json={"name": "tara", "kind": "user", "role": "tenant-admin"}, headers=admin
    )
    tara = gateway.key(made.json()["key"])
    more = await gateway.http.post(f"{API}/keys", json={"name": "x", "role": "admin"}, headers=tara)
    assert more.status_code == 403
    assert more.json()["reasons"] == ["privilege_escalation"]
    scorer = await gateway.http.post(f"{API}/keys", json={"name": "y", "role": "scoring-app"}, headers=tara)
    assert scorer.status_code == 201, scorer.text
    itself = await gateway.http.post(
        f"{API}/bindings", json={"subject": "user:tara", "role": "policy-admin"}, headers=tara
    )
    assert itself.json()["reasons"] == ["privilege_escalation"]


async def test_services_fetch_a_signed_snapshot_and_users_do_not(gateway: Running) -> None:
    answer = await gateway.http.get(f"{API}/snapshot", headers=gateway.service("registry"))
    assert answer.status_code == 200, answer.text
    payload = json.loads(answer.json()["payload"])
    assert "user:admin" in payload["data"]["bindings"]
    held = {**gateway.service("registry"), "if-none-match": f'"{payload["revision"]}"'}
    assert (await gateway.http.get(f"{API}/snapshot", headers=held)).status_code == 304
    as_admin = await gateway.http.get(f"{API}/snapshot", headers=gateway.key(gateway.admin))
    assert as_admin.json()["reasons"] == ["internal_only"]


async def test_changes_reach_the_audit_log_and_it_verifies(gateway: Running) -> None:
    admin = gateway.key(gateway.admin)
    await gateway.http.post(f"{API}/keys", json={"name": "shop", "role": "viewer"}, headers=admin)

    async def recorded() -> bool:
        page = await gateway.http.get(f"{API}/audit", params={"action": "admin:key.create"}, headers=admin)
        assert page.status_code == 200, page.text
        return len(page.json()["records"]) == 2

    await eventually(recorded, what="audit entries of two keys")
    found = (await gateway.http.post(f"{API}/audit/verify", headers=admin)).json()
    assert found["ok"], found
    assert found["size"] >= 4
    export = await gateway.http.get(f"{API}/audit/export", headers=admin)
    lines = [json.loads(line) for line in export.text.splitlines()]
    assert [line["event"]["sequence"] for line in lines] == list(range(len(lines)))


async def test_a_denial_can_be_explained_by_whom_it_hit(gateway: Running) -> None:
    admin = gateway.key(gateway.admin)
    made = await gateway.http.post(f"{API}/keys", json={"name": "shop", "role": "viewer"}, headers=admin)
    shop = gateway.key(made.json()["key"])
    denied = await gateway.http.get(f"{API}/keys", headers=shop)
    assert denied.status_code == 403
    decision_id = denied.json()["decision_id"]

    async def explained() -> bool:
        return (await gateway.http.get(f"{API}/decisions/{decision_id}", headers=shop)).status_code == 200

    await eventually(explained, what="the decision in the log")
    body = (await gateway.http.get(f"{API}/decisions/{decision_id}", headers=shop)).json()
    assert body["decision"]["reasons"] == ["no_grant"]
    assert "bindings create" in body["remedies"]["no_grant"]
    assert body["again"]["same"] is True
    assert body["rules"]["no_grant"].startswith("grants.rego:")


async def test_lockdown_refuses_changes_but_not_administration(gateway: Running) -> None:
    admin = gateway.key(gateway.admin)
    on = await gateway.http.put(f"{API}/lockdown", json={"on": True, "reason": "leaked key"}, headers=admin)
    assert on.status_code == 200, on.text
    question = {
        "subject": {"type": "user", "id": "user:admin"},
        "action": {"name": "registry:model.create"},
        "resource": {"type": "model", "id": "models/churn"},
    }

    async def locked() -> bool:
        answer = await gateway.http.post("/access/v1/evaluation", json=question, headers=admin)
        assert answer.status_code == 200, answer.text
        return answer.json() == {"decision": False, "context": {"reasons": ["lockdown"]}}

    await eventually(locked, what="lockdown", seconds=BUSY_S)
    off = await gateway.http.put(f"{API}/lockdown", json={"on": False, "reason": "key revoked"}, headers=admin)
    assert off.status_code == 200


async def test_a_policy_is_planned_before_it_is_activated_and_rolls_back(gateway: Running) -> None:
    admin = gateway.key(gateway.admin)
    active = (await gateway.http.get(f"{API}/policies", headers=admin)).json()["active"]
    data = (await gateway.http.get(f"{API}/policies/{active}", headers=admin)).json()["data"]
    data["settings"]["mfa_enforced"] = True
    uploaded = await gateway.http.post(f"{API}/policies", json={"data": data, "note": "ask for MFA"}, headers=admin)
    assert uploaded.status_code == 201, uploaded.text
    version = uploaded.json()["version"]
    early = await gateway.http.post(f"{API}/policies/{version}/activate", headers=admin)
    assert early.json()["code"] == "policy_not_planned"
    plan = await gateway.http.post(f"{API}/policies/{version}/plan", headers=admin)
    assert plan.json()["ready"], plan.text
    # How many of the few decisions so far the log already holds is a matter of moments.
    seen = {"accept_differences": len(plan.json()["differences"])}
    unread = {"accept_differences": seen["accept_differences"] + 1}
    refused = await gateway.http.post(f"{API}/policies/{version}/activate", json=unread, headers=admin)
    assert refused.json()["code"] == "policy_differences_not_accepted"
    activated = await gateway.http.post(f"{API}/policies/{version}/activate", json=seen, headers=admin)
    assert activated.status_code == 200, activated.text

    async def demands_mfa() -> bool:
        answer = await gateway.http.post(f"{API}/keys", json={"name": "z", "role": "viewer"}, headers=admin)
        return answer.status_code == 403 and "mfa_required" in answer.json()["reasons"]

    await eventually(demands_mfa, what="the new policy in force", seconds=BUSY_S)


async def test_a_policy_that_does_not_compile_is_refused(gateway: Running) -> None:
    answer = await gateway.http.post(
        f"{API}/policies",
        json={"modules": {"authz.rego": "package clave.authz\n allow {"}},
        headers=gateway.key(gateway.admin),
    )
    assert answer.json()["code"] == "policy_invalid"


async def test_everything_survives_a_restart(
    service_database: Callable[[str], str], redis_url: str, secrets_dir: Path, tmp_path: Path
) -> None:
    url = service_database("gateway")
    migrate(url=url, package="clave_gateway", metadata=metadata)
    async with serving(url, redis_url, secrets_dir, tmp_path / "data") as first:
        key = (
            await first.http.post(
                f"{API}/keys", json={"name": "shop", "role": "viewer"}, headers=first.key(first.admin)
            )
        ).json()["key"]
    shared = ("clave.audit", "clave.decisions")
    with Redis.from_url(redis_url) as store:
        for stream in shared:
            store.xadd(stream, {"id": "left", "body": "by an older version"})
    async with serving(url, redis_url, secrets_dir, tmp_path / "data") as second:
        assert second.admin == first.admin

        async def gone() -> bool:
            with Redis.from_url(redis_url) as store:
                return not store.exists(*shared)

        await eventually(gone, what="the end of the streams that services once shared")
        answer = await second.http.get(f"{API}/whoami", headers=second.key(key))
        assert answer.status_code == 200


async def test_who_read_what_is_recorded_once_where_the_policy_asks_for_it(gateway: Running, redis_url: str) -> None:
    admin = gateway.key(gateway.admin)
    assert (await gateway.http.get(f"{API}/keys", headers=admin)).status_code == 200
    assert (await gateway.http.get(f"{API}/whoami", headers=admin)).status_code == 200
    found: list[dict[str, object]] = []

    async def recorded() -> bool:
        answer = await gateway.http.get(f"{API}/audit", params={"actor": "user:admin"}, headers=admin)
        found[:] = [record["entry"] for record in answer.json()["records"]]
        return any(entry["action"] == "admin:key.list" for entry in found)

    await eventually(recorded, what="the read in the audit log")
    reads = [entry for entry in found if entry["action"] == "admin:key.list"]
    assert len(reads) == 1
    assert str(reads[0]["decision_id"]).startswith("dec_")
    assert reads[0]["signature"]["kid"] == "gateway"  # type: ignore[index]
    replay(redis_url, reads[0])
    assert (await gateway.http.get(f"{API}/bindings", headers=admin)).status_code == 200

    async def another() -> bool:
        await recorded()
        return any(entry["action"] == "admin:binding.list" for entry in found)

    await eventually(another, what="the next read in the audit log")
    assert [entry for entry in found if entry["action"] == "admin:key.list"] == reads
    assert all(entry["action"] != "access:evaluate" for entry in found), "sampled reads are no audit entries"


def replay(redis_url: str, read: dict[str, object]) -> None:
    """Send a decision and its read again: as it was, twice at once, and with another's name on it."""
    decisions, entries = "clave.decisions.gateway", "clave.audit.gateway"
    with Redis.from_url(redis_url) as store, store.pipeline() as pipeline:
        for _, fields in store.xrange(decisions):
            if str(read["decision_id"]).encode() in fields[b"body"]:
                pipeline.xadd(decisions, fields).xadd(decisions, fields)
                forged = fields[b"body"].replace(b"user:admin", b"user:other")
                pipeline.xadd(decisions, {"id": "dec_1", "body": forged.replace(fields[b"id"], b"dec_1")})
        for _, fields in store.xrange(entries):
            if str(read["id"]).encode() in fields[b"body"]:
                pipeline.xadd(entries, fields).xadd(entries, {**fields, b"id": "read_dec_2"})
        assert len(pipeline.execute()) >= 5
