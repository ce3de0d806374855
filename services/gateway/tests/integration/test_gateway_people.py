"""Users, service accounts, applications and groups, through the API and by the commands that people type."""

import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from clave_testing.live_gateway import LiveGateway, live_gateway

pytestmark = pytest.mark.integration


@pytest.fixture
async def live(
    service_database: Callable[[str], str], redis_url: str, secrets_dir: Path, tmp_path: Path
) -> AsyncIterator[LiveGateway]:
    database = service_database("gateway")
    async with live_gateway(tmp_path, database=database, redis_url=redis_url, secrets=secrets_dir) as running:
        yield running


async def test_a_person_logs_in_and_administers_by_commands(live: LiveGateway) -> None:
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


async def test_a_key_is_rotated_with_both_working_and_then_revoked(live: LiveGateway) -> None:
    made = (await live.send("POST", "/keys", {"name": "shop", "role": "viewer"})).json()
    successor = (await live.send("POST", f"/keys/{made['id']}/rotate")).json()
    for key in (made["key"], successor["key"]):
        answer = await live.send("GET", "/whoami", key=key)
        assert answer.json()["subject"] == "app:shop"
    assert (await live.send("DELETE", f"/keys/{made['id']}")).status_code == 204
    await live.answers(401, "/whoami", key=made["key"])
    assert (await live.send("GET", "/whoami", key=successor["key"])).status_code == 200


async def test_a_removed_principal_loses_keys_roles_and_its_name_for_good(live: LiveGateway) -> None:
    key = (await live.send("POST", "/keys", {"name": "gone", "role": "viewer"})).json()["key"]
    assert (await live.send("DELETE", "/principals/app:gone")).status_code == 204
    await live.answers(401, "/whoami", key=key)
    bindings = (await live.send("GET", "/bindings")).json()["bindings"]
    assert [one for one in bindings if one["subject"] == "app:gone"] == []
    again = await live.send("POST", "/principals", {"id": "app:gone"})
    assert (again.status_code, again.json()["code"]) == (409, "principal_name_taken")


async def test_only_who_holds_a_groups_roles_may_put_somebody_into_it(live: LiveGateway) -> None:
    await live.send("POST", "/bindings", {"subject": "group:bosses", "role": "ml-engineer"})
    giver = (await live.send("POST", "/keys", {"name": "lead", "kind": "user", "role": "tenant-admin"})).json()["key"]
    await live.answers(200, "/principals", key=giver)
    made = await live.send("POST", "/principals", {"id": "user:eve", "groups": ["bosses"]}, key=giver)
    assert (made.status_code, "privilege_escalation" in made.text) == (403, True), made.text
    assert (await live.send("POST", "/principals", {"id": "user:eve"}, key=giver)).status_code == 201
    assert (await live.send("DELETE", "/principals/user:nobody", key=giver)).status_code == 404
    assert (await live.send("DELETE", "/groups/none", key=giver)).status_code == 404


async def test_whatever_role_a_key_has_its_holder_learns_who_that_is_and_why_not(live: LiveGateway) -> None:
    for role in ("scoring-app", "policy-admin"):
        key = (await live.send("POST", "/keys", {"name": role, "role": role, "kind": "user"})).json()["key"]
        await live.answers(200, "/whoami", key=key)
        assert (await live.clave("login", live.url, "--key-file", "-", stdin=f"{key}\n"))["roles"] == [role]
        refused = (await live.send("GET", "/keys", key=key)).json()["decision_id"]
        await live.answers(200, f"/decisions/{refused}", key=key)
    told = await live.refused("bindings", "create", "bob", "--role", "viewer", key=live.admin)
    assert "write the kind first: user:NAME" in told
