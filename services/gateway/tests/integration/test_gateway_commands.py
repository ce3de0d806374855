"""Policies changed by two people, and the audit log proven, by commands against a live gateway."""

import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from clave.stack.secrets import ensure_secrets
from clave_common.access.service_tokens import public_keys
from clave_common.access.snapshot import SnapshotFile
from clave_gateway.domain.checkpoints import Checkpoint, sign_checkpoint
from clave_gateway.domain.merkle import leaf_hash
from clave_gateway.signing import GatewaySigner
from clave_testing.live_gateway import LiveGateway, live_gateway
from clave_testing.patience import eventually
from clave_testing.servers import new_database, new_redis, superuser_url

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700)
    ensure_secrets(secrets, ("gateway",))
    async with live_gateway(
        folder, database=new_database("gateway"), redis_url=new_redis(), secrets=secrets
    ) as running:
        yield running


async def person(live: LiveGateway, name: str) -> str:
    """A person with a key of their own; the policy's data say what they may do."""
    made = await live.send("POST", "/keys", {"name": name, "kind": "user", "role": "viewer"})
    assert made.status_code == 201, made.text
    return str(made.json()["key"])


async def in_force(live: LiveGateway, *, key: str | None = None) -> tuple[int, dict[str, Any]]:
    """The version in force and its data."""
    active = (await live.send("GET", "/policies", key=key)).json()["active"]
    return active, (await live.send("GET", f"/policies/{active}", key=key)).json()["data"]


async def two_administrators(live: LiveGateway) -> tuple[str, str]:
    """Put a policy in force under which pia and quinn administer policies, and nobody activates their own."""
    pia, quinn = await person(live, "pia"), await person(live, "quinn")
    _, data = await in_force(live)
    held = [{"role": "policy-admin", "tenant": "*", "namespaces": ["*"]}]
    data["bindings"] |= {"user:pia": held, "user:quinn": held}
    data["settings"]["sod_waived"].remove("policy:bundle.activate")
    version = (await live.send("POST", "/policies", {"data": data})).json()["version"]
    plan = (await live.send("POST", f"/policies/{version}/plan")).json()
    accepted = {"accept_differences": len(plan["differences"])}
    assert (await live.send("POST", f"/policies/{version}/activate", accepted)).status_code == 200
    for key in (pia, quinn):
        await live.answers(200, "/policies", key=key)
    return pia, quinn


async def test_one_person_proposes_a_policy_and_another_activates_it(live: LiveGateway) -> None:
    pia, quinn = await two_administrators(live)
    before, data = await in_force(live, key=pia)
    (live.home / "data.json").write_text(json.dumps({**data, "version": "tightened"}))
    proposed = await live.clave("policy", "upload", "--data", str(live.home / "data.json"), key=pia)
    version = str(proposed["version"])
    plan = await live.clave("policy", "plan", version, key=pia)
    accepted = ("--accept-differences", str(len(plan["differences"])))
    assert "separation_of_duties" in await live.refused("policy", "activate", version, *accepted, key=pia)
    assert (await in_force(live, key=pia))[0] == before
    stranger = await live.send("POST", f"/policies/{version}/activate", key=await person(live, "vera"))
    assert "no_grant" in stranger.json()["reasons"]
    activated = await live.clave("policy", "activate", version, *accepted, key=quinn)
    assert (activated["created_by"], activated["activated_by"]) == ("user:pia", "user:quinn")
    kept = SnapshotFile(live.data / "access-snapshot.json", public_keys(live.home / "secrets" / "services.jwks.json"))

    async def last_good() -> bool:
        snapshot = kept.load()
        return snapshot is not None and snapshot.bundle.version == f"tightened+{version}"

    await eventually(last_good, what="the signed copy of the new policy on disk")
    assert (await live.clave("policy", "rollback", key=quinn))["version"] == before
    page = await live.send("GET", "/audit?actor=user:quinn")
    actions = {record["entry"]["action"] for record in page.json()["records"]}
    assert "policy:bundle.activate" in actions


async def test_the_log_is_proven_to_hold_an_entry_and_to_have_only_grown(live: LiveGateway) -> None:
    kept, proof = live.home / "kept.txt", live.home / "proof.json"
    old = (await live.clave("audit", "checkpoint", "--file", str(kept), key=live.admin))["size"]
    await person(live, "nora")

    async def recorded() -> bool:
        page = await live.send("GET", "/audit?resource=keys&page_size=1")
        newest.update(page.json()["records"][0])
        return bool(newest["index"] >= old)

    newest: dict[str, Any] = {}
    await eventually(recorded, what="the entry in the log")
    await live.clave("audit", "prove", newest["entry"]["id"], "--file", str(proof), key=live.admin)
    assert "entry" in (await live.clave("audit", "verify", "--proof", str(proof)))["proves"]

    grown = await live.clave("audit", "prove", "--from", str(old), "--file", str(proof), key=live.admin)
    assert grown["size"] > old
    checked = await live.clave("audit", "verify", "--proof", str(proof), "--checkpoint", str(kept))
    assert f"extends the one of {old}" in checked["proves"]
    beyond = await live.send("GET", f"/audit/consistency?old_size={old}&size=1000000")
    assert (beyond.status_code, beyond.json()["code"]) == (404, "audit_size_unknown")


async def test_the_log_is_exported_as_ecs_documents(live: LiveGateway) -> None:
    file = live.home / "log.ndjson"
    written = await live.clave("audit", "export", str(file), key=live.admin)
    documents = [json.loads(line) for line in file.read_text().splitlines()]
    assert written["entries"] == len(documents) > 0
    assert [document["event"]["sequence"] for document in documents] == list(range(len(documents)))
    assert {"@timestamp", "ecs", "event", "user", "service"} <= set(documents[0])


def break_in(live: LiveGateway, *statements: str) -> None:
    """Do what only a superuser can: switch the triggers off first."""
    with psycopg.connect(superuser_url(live.database)) as connection:
        connection.execute("set session_replication_role = replica")
        for statement in statements:
            connection.execute(statement)


def forked_checkpoint(live: LiveGateway, size: int) -> str:
    """A checkpoint of another history, signed with the log's own key."""
    signer = GatewaySigner.from_file(live.home / "secrets" / "gateway.pem")
    origin = next((live.data / "witness").glob("*.note")).read_text().split("\n", 1)[0]
    other = Checkpoint(origin, size, leaf_hash(b"another history"))
    return sign_checkpoint(other, public_key=signer.public_key, sign=signer.sign)


async def test_damage_is_named_with_its_first_entry(live: LiveGateway) -> None:
    size = (await live.clave("audit", "checkpoint", key=live.admin))["size"]
    break_in(
        live,
        "create table gateway.kept as select * from gateway.audit_log",
        "create table gateway.noted as select * from gateway.audit_checkpoints",
    )
    keep = (
        "insert into gateway.kept select * from gateway.audit_log l"
        " where not exists (select 1 from gateway.kept k where k.index = l.index)"
    )
    mend = (
        "delete from gateway.audit_log where index = 1",
        "insert into gateway.audit_log select * from gateway.kept on conflict do nothing",
        "update gateway.audit_checkpoints c set note = n.note from gateway.noted n where n.size = c.size",
    )
    fork = f"update gateway.audit_checkpoints set note = '{forked_checkpoint(live, size)}' where size = {size}"
    for statement, damage, first_bad in [
        ("update gateway.audit_log set canonical = canonical || ' '::bytea where index = 1", "altered", 1),
        ("delete from gateway.audit_log where index >= 3", "truncated", 3),
        (fork, "forked", size),
    ]:

        async def named(statement: str = statement, expected: tuple[str, int] = (damage, first_bad)) -> bool:
            break_in(live, keep, statement)  # again where an entry came between, this very question's for one
            found = (await live.send("POST", "/audit/verify")).json()
            return (found["damage"], found["first_bad"]) == expected

        await eventually(named, what=damage)
        break_in(live, *mend)
    break_in(live, keep, "delete from gateway.audit_log where index = 2")
    assert "(gap) at entry 2" in await live.refused("audit", "verify", key=live.admin)
    break_in(live, *mend)
    assert (await live.clave("audit", "verify", key=live.admin))["ok"] is True
