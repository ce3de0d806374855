"""How old a service's copy of keys and policy is: counted from when the gateway was heard, not from its own start."""

import os
import time
from pathlib import Path
from types import MappingProxyType

import pytest
from clave_common.access.engine import EmbeddedEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.service_tokens import public_keys
from clave_common.access.snapshot import Snapshot, SnapshotFile, SnapshotRejected, encode_snapshot
from clave_common.access.snapshot_keeper import SnapshotKeeper
from joserfc.jwk import KeySet, OKPKey

DAYS_3 = 3 * 86_400.0


class Source:
    def __init__(self, raw: bytes | None) -> None:
        self.raw = raw

    async def fetch(self, revision: int | None) -> bytes | None:
        return self.raw


class NoEngine(EmbeddedEngine):
    async def load(self, bundle: PolicyBundle) -> None:
        """Take anything."""


@pytest.fixture
def keys(secrets_dir: Path) -> KeySet:
    return public_keys(secrets_dir / "services.jwks.json")


@pytest.fixture
def file(tmp_path: Path, keys: KeySet) -> SnapshotFile:
    return SnapshotFile(tmp_path / "snapshot.json", keys)


def signed(secrets: Path, revision: int = 5) -> bytes:
    snapshot = Snapshot(revision, time.time(), MappingProxyType({}), PolicyBundle({}, {"version": "1"}))
    return encode_snapshot(snapshot, OKPKey.import_key((secrets / "gateway.pem").read_bytes()))


async def test_a_restart_makes_nothing_younger(
    secrets_dir: Path, tmp_path: Path, keys: KeySet, file: SnapshotFile
) -> None:
    file.save(signed(secrets_dir))
    heard = time.time() - DAYS_3
    os.utime(tmp_path / "snapshot.json", (heard, heard))
    keeper = SnapshotKeeper(Source(None), NoEngine(), file=file, keys=keys, redis=None)
    await keeper.restore()
    assert keeper.current() is not None
    assert keeper.age_s() >= DAYS_3
    await keeper.refresh()
    assert keeper.age_s() < 60


async def test_an_answer_with_nothing_newer_is_remembered_over_a_restart(
    secrets_dir: Path, tmp_path: Path, keys: KeySet, file: SnapshotFile
) -> None:
    now = [0.0]
    keeper = SnapshotKeeper(
        Source(signed(secrets_dir)), NoEngine(), file=file, keys=keys, redis=None, now=lambda: now[0]
    )
    await keeper.refresh()
    os.utime(tmp_path / "snapshot.json", (1e9, 1e9))
    keeper_source = Source(None)
    keeper = SnapshotKeeper(keeper_source, NoEngine(), file=file, keys=keys, redis=None, now=lambda: now[0])
    await keeper.restore()
    now[0] += 10
    await keeper.refresh()
    assert file.age_s() < 60


async def test_an_answer_that_nobody_signed_is_no_sign_of_life(
    secrets_dir: Path, keys: KeySet, file: SnapshotFile
) -> None:
    now, source = [0.0], Source(signed(secrets_dir))
    keeper = SnapshotKeeper(source, NoEngine(), file=file, keys=keys, redis=None, now=lambda: now[0])
    await keeper.refresh()
    for raw in (b"{}", signed(secrets_dir, revision=4)):
        now[0] += 100
        source.raw = raw
        with pytest.raises(SnapshotRejected):
            await keeper.refresh()
    assert keeper.age_s() == 200
