"""The rollout controller: one leads, any may die, no step is taken twice."""

import asyncio

import pytest
from clave_common.background import Background
from clave_common.migrations import drift
from clave_registry.controller import RolloutController
from clave_registry.storage.mlflow.tables import metadata
from clave_testing.patience import eventually
from registry_bench import API, Bench, register

pytestmark = pytest.mark.integration


async def started_rollout(bench: Bench) -> str:
    for _ in range(2):
        version = (await register(bench))["version"]
        await bench.call("user:ana", "POST", f"{API}/models/churn/versions/{version}/submit", {}, expect=200)
    body = {"name": "churn", "model": "churn", "version": 1}
    await bench.call("user:eve", "POST", f"{API}/endpoints", body, expect=201)
    plan = {"steps": [{"weight": weight, "bake_s": 0, "rows_min": 1} for weight in (0.1, 0.5)]}
    answer = await bench.call(
        "user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": 2, "plan": plan}, expect=201
    )
    rollout_id: str = answer.json()["id"]
    return rollout_id


async def states(bench: Bench, rollout_id: str) -> list[str]:
    shown = (await bench.call("user:vic", "GET", f"{API}/rollouts/{rollout_id}", expect=200)).json()
    return [f"{event['state']}:{event['step']}" for event in shown["events"]]


async def test_many_controllers_at_once_take_each_step_once(bench: Bench) -> None:
    rollout_id = await started_rollout(bench)
    while "promoted:None" not in await states(bench, rollout_id):
        await asyncio.gather(*(bench.wired.operations.rollouts.advance(rollout_id) for _ in range(6)))
    assert await states(bench, rollout_id) == ["canary:0", "canary:1", "promoted:None"]
    history = (await bench.call("user:vic", "GET", f"{API}/endpoints/churn/history", expect=200)).json()
    assert [entry["version"] for entry in history["entries"]] == [2, 1]


async def test_without_an_analysis_a_rollout_waits_and_goes_on_when_monitor_is_back(bench: Bench) -> None:
    from clave_registry.domain.rollout import Verdict

    bench.source.verdict = None
    rollout_id = await started_rollout(bench)
    for _ in range(3):
        await bench.wired.operations.rollouts.advance(rollout_id)
    assert await states(bench, rollout_id) == ["canary:0"]
    bench.source.verdict = Verdict.PASS
    for _ in range(3):
        await bench.wired.operations.rollouts.advance(rollout_id)
    assert (await states(bench, rollout_id))[-1] == "promoted:None"


class CountingController(RolloutController):
    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.database, bench.wired.operations.rollouts, tick_s=0.02)
        self.ticks = 0

    async def tick(self) -> int:
        self.ticks += 1
        return await super().tick()


async def test_one_controller_leads_and_another_takes_over_when_it_dies(bench: Bench) -> None:
    first, second = CountingController(bench), CountingController(bench)
    leading = asyncio.create_task(first.run(Background()))
    await eventually(lambda: first.ticks > 2, what="the first controller's ticks")
    waiting = asyncio.create_task(second.run(Background()))
    seen = first.ticks
    await eventually(lambda: first.ticks > seen + 10, what="ten more ticks")
    assert second.ticks == 0
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
    await eventually(lambda: second.ticks > 2, what="the second controller's ticks")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_the_migrations_make_exactly_the_tables_of_the_code(bench: Bench) -> None:
    url = bench.database.engine.url.render_as_string(hide_password=False)
    assert drift(url=url, metadata=metadata) == []
