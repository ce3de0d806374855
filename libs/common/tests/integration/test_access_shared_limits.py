"""Limits hold over processes, and a wake-up reaches a keeper at once: on a real Valkey."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import pytest
from clave_common.access.credentials import LocalVerifier
from clave_common.access.engine import EmbeddedEngine
from clave_common.access.failed_attempts import FailedAttempts
from clave_common.access.model import Caller
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.ratelimit import Limit, RateLimiter
from clave_common.access.refusals import Refusals
from clave_common.access.service_tokens import ServiceTokenVerifier, public_keys
from clave_common.access.snapshot import Snapshot, SnapshotFile, encode_snapshot
from clave_common.access.snapshot_keeper import SnapshotKeeper
from clave_common.access.verification import Presented
from clave_common.background import Background
from clave_common.errors import ClaveError, ResourceExhausted
from clave_common.redis_client import connect_redis
from clave_contracts.events import event_stream
from joserfc.jwk import OKPKey

pytestmark = pytest.mark.integration
PROCESSES, SECONDS = 4, 3.0
HAMMER = """
import asyncio, sys, time
from clave_common.access.ratelimit import Limit, RateLimiter
from clave_common.errors import ResourceExhausted
from clave_common.redis_client import connect_redis

async def main(url, seconds):
    limiter, limit = RateLimiter(connect_redis(url)), Limit("shared", per_second=10, burst=20)
    print("ready", flush=True)
    sys.stdin.readline()
    taken, end = 0, time.time() + seconds
    while time.time() < end:
        try:
            await limiter.take([limit])
            taken += 1
        except ResourceExhausted:
            await asyncio.sleep(0.005)
    print(taken, len(limiter._local))

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


async def clock_of(redis_url: str) -> float:
    """The limiter's own clock, in seconds."""
    async with connect_redis(redis_url) as redis:
        seconds, micros = await redis.time()
    return float(seconds) + micros / 1e6


async def test_four_processes_together_stay_within_one_limit(redis_url: str) -> None:
    running = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HAMMER, redis_url, str(SECONDS)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]
    for process in running:
        assert await process.stdout.readline() == b"ready\n"
    start = await clock_of(redis_url)
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in running))
    elapsed = await clock_of(redis_url) - start
    reports = [[int(word) for word in out.split()] for out, _ in outputs]
    taken, alone = (sum(column) for column in zip(*reports, strict=True))
    # Whom a stalled machine's Redis keeps waiting too long goes by the same limit alone for that moment.
    assert taken <= (1 + alone) * (20 + 10 * elapsed) + 1
    assert taken >= 20 + 10 * SECONDS * 0.5, "a busy machine may lose some, not half"


async def test_several_limits_are_charged_together_or_not_at_all(redis_url: str) -> None:
    redis = connect_redis(redis_url)
    limiter = RateLimiter(redis)
    wide, narrow = Limit("wide", per_second=0.01, burst=8), Limit("narrow", per_second=0.01, burst=2)
    outcomes = [await _taken(limiter, [wide, narrow]) for _ in range(6)]
    assert outcomes == [True, True, False, False, False, False]
    assert [await _taken(limiter, [wide]) for _ in range(7)] == [True] * 6 + [False]
    await redis.aclose()


async def _taken(limiter: RateLimiter, limits: Sequence[Limit]) -> bool:
    try:
        await limiter.take(limits)
    except ResourceExhausted:
        return False
    return True


async def test_without_redis_requests_go_on_and_are_still_bounded() -> None:
    limiter = RateLimiter(connect_redis("unix:///nowhere/at/all.sock"))
    limit = Limit("k", per_second=0.01, burst=3)
    assert [await _taken(limiter, [limit]) for _ in range(5)] == [True, True, True, False, False]


async def test_refusals_count_over_processes_and_looking_charges_none(redis_url: str) -> None:
    caller = Caller("user:mallory", "user", "acme", "api_key", 2e9, key_id="k-refused")
    first, second = (Refusals(RateLimiter(connect_redis(redis_url)), per_minute=0.6, burst=6) for _ in range(2))
    for _ in range(6):
        await first.note(caller, "dec_first")
    await first.hold_back(caller)  # as many as the limit gives
    await second.hold_back(caller)
    await second.note(caller, "dec_second")  # the one over it, decided here
    with pytest.raises(ResourceExhausted) as held:
        await second.hold_back(caller)
    assert held.value.facts["decision_id"] == "dec_second"
    assert 0 < (held.value.retry_after_s or 0) <= 100
    limiter, limit = RateLimiter(connect_redis(redis_url)), Limit("looked at", per_second=0.01, burst=2)
    assert [await limiter.wait_s([limit]) for _ in range(5)] == [0.0] * 5
    assert [await _taken(limiter, [limit]) for _ in range(3)] == [True, True, False]
    assert await limiter.wait_s([limit]) > 0


class Source:
    """Gives the newest snapshot and counts who asked."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.asked = 0

    async def fetch(self, revision: int | None) -> bytes | None:
        self.asked += 1
        return self.raw


async def test_an_event_of_the_gateway_wakes_a_keeper_at_once(redis_url: str, secrets_dir, tmp_path) -> None:
    key = OKPKey.import_key((secrets_dir / "gateway.pem").read_bytes())
    keys = public_keys(secrets_dir / "services.jwks.json")
    modules = {
        "a.rego": "package clave.authz\nimport rego.v1\ndecision := {}\n",
        "f.rego": "package clave.filters\nimport rego.v1\nvisible := []\n",
    }

    def encoded(revision: int) -> bytes:
        return encode_snapshot(Snapshot(revision, 0.0, MappingProxyType({}), PolicyBundle(modules, {})), key)

    redis, source, background = connect_redis(redis_url), Source(encoded(1)), Background()
    file = SnapshotFile(tmp_path / "s.json", keys)
    keeper = SnapshotKeeper(source, EmbeddedEngine(), file=file, keys=keys, redis=redis)
    running = asyncio.create_task(keeper.run(background))
    try:
        for revision in range(2, 12):
            source.raw = encoded(revision)
            await redis.xadd(event_stream("gateway"), {"id": str(revision), "body": b"{}"})
            deadline = time.monotonic() + 2.0
            while (held := keeper.current()) is None or held.revision != revision:
                assert time.monotonic() < deadline, f"revision {revision} did not arrive"
                await asyncio.sleep(0.005)
    finally:
        running.cancel()
        await redis.aclose()


async def test_failures_count_over_processes(redis_url: str, secrets_dir: Path) -> None:
    def verifier() -> LocalVerifier:
        return LocalVerifier(
            pepper=b"p",
            snapshot=lambda: None,
            service_tokens=ServiceTokenVerifier.from_file("registry", secrets_dir / "services.jwks.json"),
            failed=FailedAttempts(burst=6, per_second=0.01),
            failures=RateLimiter(connect_redis(redis_url)),
        )

    refusals = []
    for one in (verifier(), verifier()):
        for _ in range(4):
            with pytest.raises(ClaveError) as refusal:
                await one.verify(Presented("Bearer x", "203.0.113.9"))
            refusals.append(refusal.value.code)
    assert refusals == ["invalid_credential"] * 6 + ["too_many_failed_attempts"] * 2


async def test_keys_made_one_after_the_other_all_work_at_once(secrets_dir: Path, tmp_path: Path) -> None:
    source, keys = Source(b""), public_keys(secrets_dir / "services.jwks.json")
    keeper = SnapshotKeeper(source, EmbeddedEngine(), file=SnapshotFile(tmp_path / "kept", keys), keys=keys, redis=None)
    began = source.asked
    await asyncio.gather(*(keeper.refresh_soon() for _ in range(50)))
    assert source.asked == began + 1, "all of them share one question"
    await keeper.refresh_soon()
    assert source.asked == began + 2, "the next one waits for its turn and is asked"
