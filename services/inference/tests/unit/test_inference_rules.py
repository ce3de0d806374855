"""Routing, limits, the spool, the artifact cache and the desired state."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from clave_inference.domain.limits import Bucket, RowBudget, Spend
from clave_inference.domain.routing import Arm, ArmRole, Route, ordered_arms, place_of
from clave_inference.runtime.row_ledger import RowLedger
from clave_inference.services.prediction_log import PredictionLog
from clave_inference.storage.artifact_cache import ArtifactCache, ArtifactDamaged
from clave_inference.storage.spool import Spool, SpoolFull
from clave_testing.patience import PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st


def share(weight: float, key: str) -> bool:
    """Whether a key meets the canary at a weight, as the table lays arms out."""
    arms = ordered_arms([Arm(ArmRole.LIVE, "m", "1", 1 - weight), Arm(ArmRole.CANARY, "m", "2", weight)])
    place = place_of(key, "churn")
    return place < arms[0].weight and arms[0].role is ArmRole.CANARY


@given(st.text(), st.floats(0.01, 0.5), st.floats(0.5, 0.99))
def test_a_key_on_the_canary_stays_there_while_it_grows(key: str, small: float, large: float) -> None:
    assert not share(small, key) or share(large, key)


def test_keys_spread_as_the_weights_say() -> None:
    hits = sum(place_of(f"customer-{i}", "churn") < 0.1 for i in range(5000))
    assert 400 < hits < 600
    assert place_of("customer-1", "churn") == place_of("customer-1", "churn") != place_of("customer-1", "fraud")


def test_a_route_must_add_up() -> None:
    with pytest.raises(ValueError, match="add up"):
        Route("churn", (Arm(ArmRole.LIVE, "m", "1", 0.5),))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def taken(budget: RowBudget, ledger: RowLedger, clock: Clock, attempts: int) -> int:
    granted = 0
    for _ in range(attempts):
        while (outcome := budget.spend(1, clock.now)) is Spend.ASK:
            await ledger.draw(budget, 1)
        granted += outcome is Spend.GRANTED
    return granted


@pytest.mark.parametrize(("per_second", "burst"), [(1.0, 5.0), (100.0, 100.0), (10_000.0, 20_000.0)])
async def test_rows_never_exceed_burst_and_rate(per_second: float, burst: float) -> None:
    clock = Clock()
    ledger, budget = RowLedger(None, now=clock), RowBudget((Bucket("k", per_second, burst),))
    attempts = int(burst * 2)
    assert await taken(budget, ledger, clock, attempts) <= burst
    for _ in range(20):
        clock.now += 0.1
        assert await taken(budget, ledger, clock, attempts) <= per_second * 0.1 + budget.lease_rows + 1


async def test_a_request_larger_than_the_burst_passes_a_full_bucket_and_pays() -> None:
    clock = Clock()
    ledger, budget = RowLedger(None, now=clock), RowBudget((Bucket("k", 10.0, 5.0),))
    await ledger.draw(budget, 20)
    assert budget.spend(20, clock.now) is Spend.GRANTED
    await ledger.draw(budget, 1)
    assert budget.spend(1, clock.now) is Spend.REFUSED
    assert budget.refused_until > clock.now + 1.0


class HungRedis:
    """Takes every question and answers none."""

    asked = 0

    def register_script(self, _text: str) -> "HungRedis":
        return self

    async def __call__(self, **_question: object) -> None:
        self.asked += 1
        await asyncio.Event().wait()


async def test_a_store_that_hangs_holds_nobody_up_and_is_left_alone_for_a_second() -> None:
    clock, redis = Clock(), HungRedis()
    ledger, budget = RowLedger(redis, now=clock), RowBudget((Bucket("k", 1.0, 5.0),))
    async with asyncio.timeout(PATIENCE_S):
        assert await taken(budget, ledger, clock, 3) == 3
    assert redis.asked == 1


class CountingRedis:
    """Grants every wish, a turn of the loop later, and counts the rows."""

    rows = 0

    def register_script(self, _text: str) -> "CountingRedis":
        return self

    async def __call__(self, *, args: list[float], **_question: object) -> list[str]:
        await asyncio.sleep(0)
        self.rows += int(args[1])
        return [str(int(args[1])), "1000"]


@pytest.mark.parametrize(("per_second", "burst"), [(1_000.0, 6_000.0), (60.0, 360.0), (1.0, 5.0)])
async def test_requests_that_find_a_lease_lapsed_together_do_not_draw_one_each(per_second: float, burst: float) -> None:
    """They would empty the bucket for nothing: a caller at a tenth of its limit was refused by it."""
    clock, redis = Clock(), CountingRedis()
    ledger, budget = RowLedger(redis, now=clock), RowBudget((Bucket("k", per_second, burst),))
    for second in range(1, 4):
        assert await asyncio.gather(*(taken(budget, ledger, clock, 1) for _ in range(64))) == [1] * 64
        assert redis.rows <= second * (64 + budget.lease_rows + 1)
        clock.now += 1.5
    assert ledger._under_way == ledger._wanted == {}


def test_the_spool_keeps_order_over_restarts_and_drops_a_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "spool.log"
    spool = Spool(path, bytes_max=1000)
    for number in range(3):
        spool.append(f"e{number}", b"x" * number)
    spool.advance()
    spool.close()
    with path.open("ab") as file:
        file.write(b"\x02\0\0\0\xff\0\0\0e9half")
    again = Spool(path, bytes_max=1000)
    assert again.entries == 2
    assert again.peek() == ("e1", b"x")
    again.advance()
    assert again.peek() == ("e2", b"xx")
    again.advance()
    assert again.peek() is None
    assert path.stat().st_size == 0
    with pytest.raises(SpoolFull):
        again.append("big", b"x" * 1000)


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_bytes_are_believed_only_with_their_digest(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    digest = hashlib.sha256(b"model").hexdigest()
    with pytest.raises(ArtifactDamaged):
        await cache.store(digest, 5, chunks(b"other"))
    with pytest.raises(ArtifactDamaged):
        await cache.store(digest, 4, chunks(b"model"))
    path = await cache.store(digest, 5, chunks(b"model"))
    assert cache.holds(digest)
    path.write_bytes(b"modem")
    assert not cache.holds(digest)
    assert {entry.name for entry in os.scandir(tmp_path)} == {"blobs", "tables", "verdicts"}


async def test_the_log_spools_while_the_stream_is_away_and_replays_in_order(bench: Any) -> None:
    log: PredictionLog = bench.log
    await bench.deployment.step()
    from clave_inference.services.admissions import Credential
    from clave_inference.services.call import Call

    body = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
    import asyncio

    async def predict() -> None:
        done = asyncio.get_running_loop().create_future()
        call = Call("rest", "churn", None, Credential(b"Bearer good"), began=0.0, body=body, deadline=1e12)
        bench.predictions.predict(call, done.set_result)
        assert (await done).error is None
        await log.flush()

    bench.stream.away = True
    await predict()
    await predict()
    assert log.spooled == 2
    assert bench.stream.entries == []
    bench.stream.away = False
    await predict()
    await log._replay()
    ids = [record["id"] for record in bench.stream.records()]
    assert len(ids) == 3
    assert ids == sorted(ids)


async def test_a_version_that_fails_leaves_the_others_answering(bench: Any) -> None:
    registry, deployment = bench.registry, bench.deployment
    await deployment.step()
    bad = registry.version(2, b"junk")
    registry.want([registry.state.versions[0], bad], [(1, "live", 0.7), (2, "canary", 0.3)])
    await deployment.step()
    table = deployment.table
    assert set(table.versions) == {("churn", 1)}
    assert ("churn", 2) in table.failed
    assert [target.loaded.version for _, target in table.targets["churn"]] == [1]
    assert list(table.missing()) == []
    assert any(seen.state == "failed" for seen in registry.reports[-1].versions)


async def test_last_known_good_is_served_without_the_registry(bench: Any, tmp_path: Path) -> None:
    from clave_inference.services.deploy import Deployment

    await bench.deployment.step()
    cold = Deployment(registry=bench.registry, cache=ArtifactCache(tmp_path), instance="cold", check=lambda _path: None)
    await cold.start_from_disk()
    assert cold.table.target("churn", None, None).loaded.version == 1


async def test_a_process_is_not_ready_before_it_knows_what_is_desired(bench: Any) -> None:
    assert list(bench.deployment.table.missing())
    bench.registry.state.endpoints.clear()
    bench.registry.state.versions.clear()
    await bench.deployment.step()
    assert list(bench.deployment.table.missing()) == []
