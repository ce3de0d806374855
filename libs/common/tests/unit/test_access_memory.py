"""What a stranger or a reader invents fills no memory, and opens no second door."""

import time
from pathlib import Path
from types import MappingProxyType

import pytest
from clave_common.access.api_keys import new_api_key
from clave_common.access.credentials import LocalVerifier
from clave_common.access.decision_cache import DecisionCache
from clave_common.access.failed_attempts import FailedAttempts, place_of
from clave_common.access.model import Caller, Decision
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.service_tokens import ServiceTokenVerifier
from clave_common.access.snapshot import KeyRecord, Snapshot
from clave_common.access.verification import Presented
from clave_common.errors import ResourceExhausted, Unauthenticated

KEY = new_api_key()
CALLER = Caller("user:ana", "user", "acme", "api_key", 2e9)


def snapshot() -> Snapshot:
    record = KeyRecord(KEY.id, KEY.mac(b"p"), "app:shop", "acme", (), ("**",), 2e9)
    return Snapshot(1, time.time(), MappingProxyType({KEY.id: record}), PolicyBundle({}, {}))


def verifier_of(secrets: Path, held: list[Snapshot], failed: FailedAttempts | None = None) -> LocalVerifier:
    tokens = ServiceTokenVerifier.from_file("registry", secrets / "services.jwks.json")
    return LocalVerifier(pepper=b"p", snapshot=lambda: held[0], service_tokens=tokens, failed=failed)


async def test_headers_of_ones_own_invention_are_not_remembered(secrets_dir: Path) -> None:
    verifier = verifier_of(secrets_dir, [snapshot()])
    for number in range(10):
        long = f"{number}" * 10_000
        for presented in (
            Presented(f"Bearer {KEY.text}", "10.0.0.1", break_glass=f"INC-{number}"),
            Presented(f"Bearer {KEY.text}", "10.0.0.1", on_behalf_of=long),
            Presented(f"Bearer {KEY.text}", "10.0.0.1", claimed_ip=long),
            Presented(f"Bearer {KEY.text}", "10.0.0.1", edge_proof=long),
            Presented(f"Bearer{' ' * (600 + number)}{KEY.text}", "10.0.0.1"),
        ):
            assert await verifier.verify(presented) is not None
    assert len(verifier._callers) == 0
    assert await verifier.verify(Presented(f"Bearer {KEY.text}", "10.0.0.1")) is not None
    assert len(verifier._callers) == 1


async def test_what_was_checked_against_old_keys_is_let_go(secrets_dir: Path) -> None:
    held = [snapshot()]
    verifier = verifier_of(secrets_dir, held)
    for number in range(5):
        held[0] = snapshot()
        assert await verifier.verify(Presented(f"Bearer {KEY.text}", f"10.0.0.{number}")) is not None
    assert len(verifier._callers) == 1


def test_an_answer_about_a_long_id_is_not_kept() -> None:
    cache, allow = DecisionCache(), Decision(True, (), "1", "dec_1", "embedded", audit="sampled", cache_ttl_s=5.0)
    for name, kept in (("m" * 100, allow), ("m" * 50_000, None)):
        question = (CALLER, "registry:model.read", "model", f"models/{name}", b"{}", b"")
        cache.put(question, allow, revision=1, now=0.0, expires_at=2e9)
        assert cache.get(question, revision=1, now=1.0) is kept


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("testclient", "testclient"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_failures_count_where_a_client_is(address: str, place: str) -> None:
    assert place_of(address) == place


async def test_a_guesser_gains_nothing_by_another_address_of_its_network(secrets_dir: Path) -> None:
    verifier = verifier_of(secrets_dir, [snapshot()], FailedAttempts(burst=3, per_second=0.001))
    refused: list[type[Exception]] = []
    for number in range(6):
        with pytest.raises((Unauthenticated, ResourceExhausted)) as refusal:
            await verifier.verify(Presented("Bearer clave_wrong", f"2001:db8::{number:x}"))
        refused.append(refusal.type)
    assert refused == [Unauthenticated] * 3 + [ResourceExhausted] * 3
