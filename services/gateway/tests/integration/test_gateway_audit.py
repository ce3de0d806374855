"""Tampering with the audit log, at the database itself, is refused or found and named."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import rfc8785
from clave_common.access.model import Caller
from clave_common.audit_signatures import AuditSigner, AuditVerifier
from clave_common.clock import SystemClock
from clave_common.database import Database
from clave_common.errors import NotFound
from clave_common.migrations import migrate
from clave_common.streams import Entry
from clave_contracts.events import AuditEntry
from clave_gateway.domain.checkpoints import read_checkpoint
from clave_gateway.domain.merkle import leaf_hash, root_from_inclusion
from clave_gateway.domain.verification import Damage
from clave_gateway.runtime.sequencer import FORGED, Sequencer, Witness
from clave_gateway.services.audit import AuditService
from clave_gateway.signing import GatewaySigner
from clave_gateway.storage.tables import metadata
from clave_testing.servers import superuser_url
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytestmark = pytest.mark.integration


@dataclass
class Log:
    """A log of thirty entries with a checkpoint at twenty."""

    sequencer: Sequencer
    service: AuditService
    url: str
    witness: Path
    entries: list[Entry]

    def tamper(self, *statements: str) -> None:
        """Do what only a superuser can: switch the triggers off first."""
        with psycopg.connect(superuser_url(self.url)) as connection:
            connection.execute("set session_replication_role = replica")
            for statement in statements:
                connection.execute(statement)


class Auditing:
    """An enforcement point where everybody sees their own tenant's entries."""

    async def visible(self, caller: Caller, action: str) -> list[dict[str, object]]:
        return [{"tenant": caller.tenant, "namespaces": ["*"], "resources": ["**"]}]


def auditor(tenant: str) -> Caller:
    return Caller("user:aude", "user", tenant, "oidc", 2_000_000_000.0)


KEY, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
REGISTRY = AuditSigner("registry", KEY)
VERIFIER = AuditVerifier({"registry": [KEY.public_key()], "monitor": [STRANGER.public_key()]})


def plain(number: int) -> Entry:
    made = AuditEntry(
        id=f"aud_{number:04d}", service="registry", actor="user:anna", action="registry:model.create",
        resource=f"models/m{number}", details={"n": number},
    )  # fmt: skip
    return Entry("clave.audit.registry", f"{number}-0".encode(), made.id, made.model_dump_json().encode())


def entry(number: int, signer: AuditSigner = REGISTRY) -> Entry:
    made = plain(number)
    return replace(made, body=signer.signed(made.body))


@pytest.fixture
async def log(service_database: Callable[[str], str], secrets_dir: Path, tmp_path: Path) -> AsyncIterator[Log]:
    url = service_database("gateway")
    migrate(url=url, package="clave_gateway", metadata=metadata)
    database = Database(url, metadata, service="gateway")
    signer, witness = GatewaySigner.from_file(secrets_dir / "gateway.pem"), Witness(tmp_path / "witness")
    sequencer = Sequencer(database, signer, witness, origin="clave/test", clock=SystemClock(), verifier=VERIFIER)
    entries = [entry(number) for number in range(30)]
    await sequencer.append(entries[:20])
    await sequencer.checkpoint()
    await sequencer.append(entries[15:])  # five of them for the second time
    service = AuditService(database, Auditing(), signer, witness, sequencer, VERIFIER)  # type: ignore[arg-type]
    yield Log(sequencer, service, url, tmp_path / "witness", entries)
    await database.close()


async def test_entries_are_in_once_and_in_order(log: Log) -> None:
    found = await log.service.verify()
    assert (found.damage, found.size) == (None, 30)


@pytest.mark.parametrize(
    "statement",
    [
        "update gateway.audit_log set actor = 'x'",
        "delete from gateway.audit_log",
        "truncate gateway.audit_log",
        "delete from gateway.audit_checkpoints",
    ],
)
async def test_the_gateways_own_role_cannot_change_the_log(log: Log, statement: str) -> None:
    with psycopg.connect(log.url) as connection, pytest.raises(psycopg.errors.RaiseException):
        connection.execute(statement)


async def test_an_altered_entry_is_found(log: Log) -> None:
    log.tamper("update gateway.audit_log set canonical = '{}' where index = 7")
    found = await log.service.verify()
    assert (found.damage, found.first_bad) == (Damage.ALTERED, 7)


async def test_an_altered_entry_with_its_hash_made_to_fit_is_found(log: Log) -> None:
    forged = rfc8785.dumps({**json.loads(log.entries[7].body), "actor": "user:mallory"})
    with psycopg.connect(superuser_url(log.url)) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "update gateway.audit_log set canonical = %s, leaf_hash = %s where index = 7", (forged, leaf_hash(forged))
        )
    found = await log.service.verify()
    assert (found.damage, found.first_bad) == (Damage.ALTERED, 7)


async def test_a_deleted_entry_is_found(log: Log) -> None:
    log.tamper("delete from gateway.audit_log where index = 11")
    found = await log.service.verify()
    assert (found.damage, found.first_bad) == (Damage.GAP, 11)


async def test_a_cut_end_is_found(log: Log) -> None:
    log.tamper("delete from gateway.audit_log where index >= 18")
    found = await log.service.verify()
    assert (found.damage, found.first_bad) == (Damage.TRUNCATED, 18)


async def test_reordered_entries_are_found(log: Log) -> None:
    log.tamper(
        "update gateway.audit_log set index = -1 where index = 3",
        "update gateway.audit_log set index = 3 where index = 4",
        "update gateway.audit_log set index = 4 where index = -1",
    )
    found = await log.service.verify()
    assert (found.damage, found.first_bad) == (Damage.ALTERED, 3)


async def test_a_forged_checkpoint_does_not_count_and_is_mentioned(log: Log) -> None:
    note = next(log.witness.glob("*.note")).read_text()
    (log.witness / "00000000000000000099.note").write_text(note.replace("\n20\n", "\n99\n"))
    found = await log.service.verify()
    assert found.damage is None
    assert "1 checkpoints" in found.detail


async def test_an_entry_is_proven_offline(log: Log) -> None:
    proof = await log.service.prove(auditor("default"), "aud_0013")
    with pytest.raises(NotFound):
        await log.service.prove(auditor("other"), "aud_0013")
    signer = log.sequencer._signer
    checkpoint = read_checkpoint(proof.checkpoint, public_key=proof.public_key, verify=signer.verifies)
    assert leaf_hash(proof.canonical) == proof.leaf
    assert json.loads(proof.canonical)["resource"] == "models/m13"
    assert root_from_inclusion(proof.leaf, proof.index, proof.size, proof.proof) == checkpoint.root
    assert proof.service_key == KEY.public_key().public_bytes_raw()


async def test_two_sequencers_at_once_keep_one_order(log: Log) -> None:
    fresh = [entry(number) for number in range(100, 160)]
    await asyncio.gather(*(log.sequencer.append(fresh[start : start + 20]) for start in (0, 10, 20, 30, 40)))
    found = await log.service.verify()
    assert (found.damage, found.size) == (None, 90)


async def test_what_is_no_audit_entry_is_left_out(log: Log) -> None:
    await log.sequencer.append(
        [
            Entry("clave.audit.registry", b"1-1", "bad1", b"not json"),
            Entry("clave.audit.registry", b"1-2", "bad2", b"{}"),
            Entry("clave.audit.registry", b"1-3", "bad3", b'{"time": 5}'),
            Entry("clave.audit.registry", b"1-4", "bad4", REGISTRY.signed(b'{"id":"bad4","service":"registry"}')),
        ]
    )
    assert (await log.service.verify()).size == 30


FORGERIES = {
    "nobody signed it": plain(900),
    "a stranger signed it": entry(901, AuditSigner("registry", STRANGER)),
    "it was changed": replace(entry(902), body=entry(902).body.replace(b"user:anna", b"user:hans")),
    "an old one under a new name": replace(entry(3), id="aud_0903"),
    "an old one under a new name inside": replace(
        entry(3), id="aud_0904", body=entry(3).body.replace(b"aud_0003", b"aud_0904")
    ),
    "another service signed it": Entry(
        "clave.audit.monitor",
        b"1-0",
        "aud_0905",
        entry(905).body.replace(b'"service":"registry"', b'"service":"monitor"'),
    ),
}


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES)
async def test_what_its_service_did_not_sign_is_left_out_and_counted(log: Log, forged: Entry) -> None:
    before = counted()
    await log.sequencer.append([forged, entry(999)])
    assert (await log.service.verify(signatures=True)).size == 31
    assert counted() == before + 1
    with pytest.raises(NotFound):
        await log.service.prove(auditor("default"), forged.id)


def counted() -> float:
    return sum(each.value for each in next(iter(FORGED.collect())).samples if each.name.endswith("_total"))


async def test_an_old_signed_entry_that_is_sent_again_is_not_recorded_twice(log: Log) -> None:
    await log.sequencer.append([replace(entry(7), position=b"99-0"), entry(7)])
    await log.sequencer.append([entry(7), entry(30), entry(30)])
    assert (await log.service.verify()).size == 31


async def test_entries_from_before_services_signed_still_verify_and_none_may_follow(log: Log) -> None:
    """Whoever holds the gateway's key and its database is seen by the keys of the services."""
    log.sequencer._verifier = Trusting()
    await log.sequencer.append([plain(40)])
    assert (await log.service.verify()).damage is None
    found = await log.service.verify(signatures=True)
    assert (found.damage, found.first_bad) == (Damage.UNSIGNED, 30)
    log.tamper("truncate gateway.audit_log", "truncate gateway.audit_tree", "truncate gateway.audit_checkpoints")
    for path in log.witness.iterdir():
        path.unlink()
    await log.sequencer.append([plain(1), plain(2), entry(3)])
    found = await log.service.verify(signatures=True)
    assert (found.damage, found.size) == (None, 3)
    assert found.detail == "2 entries are from before services signed"


class Trusting(AuditVerifier):
    """A gateway that looks at no signature, as before services signed."""

    def __init__(self) -> None:
        super().__init__({})

    def check(self, _fields: Mapping[str, Any]) -> None:
        return


async def test_names_that_no_column_can_hold_stop_nothing(log: Log) -> None:
    resources = ["models/a\0b", "models/" + "\N{GREEK SMALL LETTER ALPHA}" * 20_000]
    made = [AuditEntry(service="registry", actor="user:\0", action="x:y.z", resource=name) for name in resources]
    bodies = {e.id: REGISTRY.signed(e.model_dump_json().encode()) for e in made}
    await log.sequencer.append([Entry("clave.audit.registry", b"1-1", name, body) for name, body in bodies.items()])
    found = await log.service.verify()
    assert (found.damage, found.size) == (None, 32)


async def test_a_log_that_grows_while_it_is_verified_is_not_called_truncated(log: Log) -> None:
    done = asyncio.Event()

    async def grow() -> None:
        for number in range(1_000, 1_060):
            await log.sequencer.append([entry(number)])
        done.set()

    growing = asyncio.create_task(grow())
    findings = [await log.service.verify()]
    while not done.is_set():
        findings.append(await log.service.verify())
    await growing
    assert [found.damage for found in findings] == [None] * len(findings)
