"""A key that was checked is recognised until keys change, it expires, or it comes from elsewhere."""

import time
from pathlib import Path
from types import MappingProxyType

import pytest
from clave_common.access.api_keys import new_api_key
from clave_common.access.credentials import LocalVerifier
from clave_common.access.edge import EdgeProof
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.service_tokens import ServiceTokenVerifier
from clave_common.access.snapshot import KeyRecord, Snapshot
from clave_common.access.verification import Presented
from clave_common.errors import Unauthenticated

KEY = new_api_key()


def held(*, revoked: bool = False) -> Snapshot:
    record = KeyRecord(KEY.id, KEY.mac(b"p"), "app:shop", "acme", (), ("**",), 2e9)
    return Snapshot(1, time.time(), MappingProxyType({} if revoked else {KEY.id: record}), PolicyBundle({}, {}))


async def test_a_key_is_checked_again_after_every_change_and_from_every_place(secrets_dir: Path) -> None:
    newest = [held()]
    now = [1e9]
    verifier = LocalVerifier(
        pepper=b"p",
        snapshot=lambda: newest[0],
        service_tokens=ServiceTokenVerifier.from_file("registry", secrets_dir / "services.jwks.json"),
        edge=EdgeProof(b"proof"),
        now=lambda: now[0],
    )
    here = Presented(f"Bearer {KEY.text}", "10.0.0.1")
    first = await verifier.verify(here)
    assert first is not None
    assert await verifier.verify(here) is first
    spoofed = await verifier.verify(Presented(f"Bearer {KEY.text}", "10.0.0.1", claimed_ip="127.0.0.1"))
    assert spoofed is not None
    assert spoofed.source_ip is None
    newest[0] = held(revoked=True)
    with pytest.raises(Unauthenticated):
        await verifier.verify(here)
    newest[0] = held()
    assert await verifier.verify(here) == first
    now[0] = 2e9
    with pytest.raises(Unauthenticated):
        await verifier.verify(here)
