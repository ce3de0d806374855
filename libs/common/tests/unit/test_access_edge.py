"""A client's address is the connection's own, or what the edge says with proof; a bare claim is worth nothing."""

import time
from pathlib import Path
from types import MappingProxyType

import pytest
from clave_common.access.api_keys import new_api_key
from clave_common.access.credentials import LocalVerifier
from clave_common.access.edge import EDGE_KEY_FILE, EdgeProof
from clave_common.access.failed_attempts import FailedAttempts
from clave_common.access.middleware import presented_by
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.service_tokens import ServiceTokenVerifier
from clave_common.access.snapshot import KeyRecord, Snapshot
from clave_common.access.verification import Presented
from clave_common.errors import ClaveError, ResourceExhausted, Unauthenticated

SECRET = "c0ffee"


def said(claimed: str | None, proof: str | None) -> Presented:
    return Presented("Bearer x", "10.0.0.9", claimed_ip=claimed, edge_proof=proof)


@pytest.mark.parametrize(
    ("claimed", "proof", "address"),
    [
        ("203.0.113.7", SECRET, "203.0.113.7"),
        ("127.0.0.1", None, None),
        ("127.0.0.1", "", None),
        ("127.0.0.1", "c0ffef", None),
        ("127.0.0.1", "ü\u2603", None),
        (None, SECRET, "10.0.0.9"),
        (None, None, "10.0.0.9"),
    ],
)
def test_a_claimed_address_counts_only_with_the_edges_secret(
    claimed: str | None, proof: str | None, address: str | None
) -> None:
    assert EdgeProof(SECRET.encode()).address(said(claimed, proof)) == address


def test_an_installation_without_an_edge_believes_nobody(tmp_path: Path) -> None:
    assert EdgeProof.from_folder(tmp_path).address(said("127.0.0.1", SECRET)) == "10.0.0.9"
    (tmp_path / EDGE_KEY_FILE).write_text(f"{SECRET}\n")
    assert EdgeProof.from_folder(tmp_path).address(said("127.0.0.1", SECRET)) == "127.0.0.1"


def test_the_proof_does_not_show_in_what_is_printed() -> None:
    assert SECRET not in repr(said("127.0.0.1", SECRET))


async def test_the_caller_gets_the_proven_address_and_no_other(secrets_dir: Path) -> None:
    key = new_api_key()
    record = KeyRecord(key.id, key.mac(b"p"), "app:shop", "acme", (), ("**",), time.time() + 60)
    held = Snapshot(1, time.time(), MappingProxyType({key.id: record}), PolicyBundle({}, {}))
    verifier = LocalVerifier(
        pepper=b"p",
        snapshot=lambda: held,
        service_tokens=ServiceTokenVerifier.from_file("registry", secrets_dir / "services.jwks.json"),
        edge=EdgeProof(SECRET.encode()),
    )
    headers = [(b"authorization", f"Bearer {key.text}".encode()), (b"x-envoy-external-address", b"203.0.113.7")]
    for extra, address in [([], None), ([(b"x-clave-edge", SECRET.encode())], "203.0.113.7")]:
        scope = {"headers": [*headers, *extra], "client": ("10.0.0.9", 5)}
        caller = await verifier.verify(presented_by(scope))
        assert caller is not None
        assert caller.source_ip == address


async def test_a_guesser_cannot_spread_failures_over_invented_addresses(secrets_dir: Path) -> None:
    verifier = LocalVerifier(
        pepper=b"p",
        snapshot=lambda: None,
        service_tokens=ServiceTokenVerifier.from_file("registry", secrets_dir / "services.jwks.json"),
        failed=FailedAttempts(burst=5, per_second=0.001),
        edge=EdgeProof(SECRET.encode()),
    )
    refusals: list[type[ClaveError]] = []
    for number in range(8):
        try:
            await verifier.verify(said(f"203.0.113.{number}", "guess"))
        except ClaveError as refusal:
            refusals.append(type(refusal))
    assert refusals == [Unauthenticated] * 5 + [ResourceExhausted] * 3
