"""The engine's transitions, schedules and events on real Postgres and Valkey, without a worker."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from clave_common.clock import FixedClock
from clave_common.database import Database
from clave_common.migrations import drift
from clave_common.redis_client import connect_redis
from clave_common.streams import Entry
from clave_contracts.events import Event, RetrainingRequested
from clave_contracts.trainer import ScheduleSpec
from clave_trainer.consumer import RetrainingConsumer
from clave_trainer.services.engine import Engine, StepRefused, StepResult, StepWaits
from clave_trainer.services.schedules import Schedules
from clave_trainer.storage.tables import METADATA
from sqlalchemy import text
from trainer_bench import SPEC, Kit, step

pytestmark = pytest.mark.integration
DONE = StepResult({}, "done")


def engine_of(trainer, *, lease_s=30.0) -> Engine:
    return Engine(trainer.database, FixedClock(datetime.now(UTC)), lease_s=lease_s)


async def claimed(engine, worker="w"):
    """Claim a step of either class; one that the relay holds for a moment is passed over, so try again."""
    for _ in range(200):
        held = await engine.claim("light", worker) or await engine.claim("cpu", worker)
        if held is not None:
            return held
        await asyncio.sleep(0.01)
    raise TimeoutError


async def work_until(engine, name):
    """Succeed every step before one, and claim that one."""
    while True:
        held = await claimed(engine)
        if held.name == name:
            return held
        assert await engine.succeed(held, DONE)


async def test_the_schema_is_what_the_tables_say(trainer):
    assert drift(url=trainer.settings.database_url.get_secret_value(), metadata=METADATA) == []


async def test_one_step_is_claimed_by_one_worker(trainer):
    await trainer.start_run()
    engine = engine_of(trainer)
    held = [await claimed(engine)]
    held += [each for each in await asyncio.gather(*(engine.claim("light", f"w{i}") for i in range(3))) if each]
    assert [each.name for each in held] == ["collect_feedback"]
    assert await engine.claim("cpu", "w") is None


async def test_older_runs_come_first(trainer):
    first, second = await trainer.start_run(), await trainer.start_run()
    engine = engine_of(trainer)
    async with trainer.database.transaction() as tx:  # the relay has nothing to lock any more
        await tx.session.execute(text("update trainer.steps set rung_at = now()"))
    assert (await claimed(engine)).run_id == first.id
    assert (await claimed(engine)).run_id == second.id


async def test_a_worker_that_lost_its_lease_changes_nothing(trainer):
    run = await trainer.start_run()
    hasty, engine = engine_of(trainer, lease_s=0.01), engine_of(trainer)
    lost = await claimed(hasty)
    await trainer.until(run.id, lambda run: step(run, "collect_feedback").state == "ready", what="the reaper")
    held = await claimed(engine)
    assert held.name == lost.name
    assert held.attempt == 2
    assert not await engine.renew(lost)
    assert not await engine.succeed(lost, StepResult({"facts": "stale"}, "stale"))
    assert await engine.succeed(held, DONE)
    assert step(await trainer.run(run.id), "collect_feedback").output == {}


async def test_a_step_without_attempts_left_fails_its_run(trainer):
    run = await trainer.start_run()
    engine = engine_of(trainer)
    for attempt in range(1, 5):
        held = await claimed(engine)
        assert held.attempt == attempt
        await engine.fail(held, "no disk", retry=True)
        async with trainer.database.transaction() as tx:  # the back-off is over
            await tx.session.execute(text("update trainer.steps set ready_at = now()"))
    ended = await trainer.run(run.id)
    assert (ended.status, ended.reasons) == ("failed", ["collect_feedback: no disk"])
    assert {each.state for each in ended.steps[1:]} == {"skipped"}

    # Tried again, it goes on from its first unfinished step.
    answer = await trainer.http.post(f"/api/trainer/v1/runs/{run.id}/retry")
    assert answer.json()["status"] == "running"
    assert (await claimed(engine)).attempt == 1
    assert (await trainer.http.post(f"/api/trainer/v1/runs/{run.id}/retry")).status_code == 409


async def test_a_waiting_step_holds_no_worker_and_waking_costs_no_attempt(trainer):
    run = await trainer.start_run()
    engine = engine_of(trainer)
    held = await work_until(engine, "approve")
    await engine.wait(held, StepWaits("waits", 0.01, output={"rollout_id": "r1"}))
    assert await trainer.until(run.id, lambda run: step(run, "approve").state in {"ready", "waiting"}, what="waiting")
    await trainer.until(run.id, lambda run: step(run, "approve").state == "ready", what="the wake-up")
    again = await claimed(engine)
    assert (again.name, again.attempt) == ("approve", 1)
    assert step(await trainer.run(run.id), "approve").output == {"rollout_id": "r1"}


async def test_a_refusal_is_an_end_with_reasons_and_is_told_to_others(trainer):
    run = await trainer.start_run(retraining_decision_id="dec_7")
    engine = engine_of(trainer)
    await engine.refuse(await work_until(engine, "evaluate"), StepRefused(["worse", "unfair"]))
    ended = await trainer.run(run.id)
    assert (ended.status, ended.reasons) == ("refused", ["worse", "unfair"])
    redis = connect_redis(trainer.settings.redis_url.get_secret_value())

    async def finished() -> list[Event]:
        entries = await redis.xrange("clave.events.trainer")
        events = [Event.model_validate_json(fields[b"body"]) for _, fields in entries]
        return [event for event in events if event.type == "RunFinished"]

    await trainer.until(run.id, lambda run: True, what="nothing")
    for _ in range(200):
        if found := await finished():
            break
        await asyncio.sleep(0.02)
    assert found[0].data["status"] == "refused"
    assert found[0].data["retraining_decision_id"] == "dec_7"
    await redis.aclose()


async def test_a_bell_that_the_broker_lost_rings_again(trainer):
    await trainer.start_run()
    engine = engine_of(trainer)
    redis = connect_redis(trainer.settings.redis_url.get_secret_value())

    async def bells() -> int:
        return int(await redis.llen("clave.celery.trainer.light"))

    async def rung() -> None:
        for _ in range(500):
            if await bells():
                return
            await asyncio.sleep(0.02)
        raise TimeoutError

    await rung()
    await redis.delete("clave.celery.trainer.light")
    async with trainer.database.transaction() as tx:
        await tx.session.execute(text("update trainer.steps set rung_at = now() - interval '1 minute'"))
    await rung()
    assert (await claimed(engine)).name == "collect_feedback"
    await redis.aclose()


def requested(decision: str) -> Event:
    data = RetrainingRequested(
        endpoint="churn",
        pipeline="churn",
        model="churn",
        model_version=1,
        decision_id=decision,
        reason="harm",
        evaluation_after=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return Event(
        type="RetrainingRequested", source="monitor", subject="endpoints/churn", data=data.model_dump(mode="json")
    )


def entry(event: Event) -> Entry:
    return Entry("clave.events.monitor", b"1-0", event.id, event.model_dump_json().encode())


async def test_a_retraining_request_starts_one_run_however_often_it_comes(trainer):
    await trainer.put_pipeline(SPEC)
    consumer = RetrainingConsumer(trainer.database, FixedClock(datetime.now(UTC)), Kit.access)
    event, same_decision = requested("dec_1"), requested("dec_1")
    other = Event(type="DriftDetected", source="monitor", subject="endpoints/churn")
    broken = Entry("clave.events.monitor", b"1-0", "evt_x", b"{")
    await consumer.handle([entry(event), broken, entry(other), entry(event), entry(same_decision)])
    await consumer.handle([entry(event), entry(requested("dec_2"))])
    runs = (await trainer.http.get("/api/trainer/v1/runs")).json()["runs"]
    assert [run["retraining_decision_id"] for run in runs] == ["dec_2", "dec_1"]
    assert {run["trigger"] for run in runs} == {"retraining_requested"}
    assert {run["requested_by"] for run in runs} == {"service:monitor"}


async def test_a_schedule_fires_once_whoever_looks_and_says_why_it_did_not(trainer):
    await trainer.put_pipeline(SPEC)
    start = datetime(2036, 1, 1, tzinfo=UTC)
    clock = FixedClock(start)
    url = trainer.settings.database_url.get_secret_value()
    others = [Database(url, METADATA, service="trainer") for _ in range(3)]
    schedulers = [Schedules(database, clock, Kit.access) for database in others]
    answer = await trainer.http.post(
        "/api/trainer/v1/schedules", json=ScheduleSpec(pipeline="churn", interval_s=60).model_dump()
    )
    assert answer.status_code == 201, answer.text
    identifier = answer.json()["id"]
    async with trainer.database.transaction() as tx:
        await tx.session.execute(text("update trainer.schedules set next_at = :at"), {"at": start})

    clock.at = start + timedelta(seconds=150)  # two due times were missed: one run makes up for both
    await asyncio.gather(*(scheduler.fire_due() for scheduler in schedulers))
    runs = (await trainer.http.get("/api/trainer/v1/runs")).json()["runs"]
    assert [run["trigger"] for run in runs] == ["schedule"]
    (schedule,) = (await trainer.http.get("/api/trainer/v1/schedules")).json()["schedules"]
    assert schedule["next_at"] == "2036-01-01T00:03:00Z"

    clock.at = start + timedelta(seconds=200)  # the first run has not ended
    await asyncio.gather(*(scheduler.fire_due() for scheduler in schedulers))
    (schedule,) = (await trainer.http.get("/api/trainer/v1/schedules")).json()["schedules"]
    assert schedule["last_skip"] == "1 runs have not ended"
    assert len((await trainer.http.get("/api/trainer/v1/runs")).json()["runs"]) == 1
    async with trainer.database.transaction() as tx:
        fires = (await tx.session.execute(text("select due, run_id from trainer.fires order by due"))).all()
    assert [(row.due - start).total_seconds() for row in fires] == [0, 180]
    assert fires[0].run_id == runs[0]["id"]
    assert (await trainer.http.delete(f"/api/trainer/v1/schedules/{identifier}")).status_code == 204
    assert (await trainer.http.delete(f"/api/trainer/v1/schedules/{identifier}")).status_code == 404
    for database in others:
        await database.close()


async def test_bad_requests_name_their_cause(trainer):
    api = "/api/trainer/v1"
    yaml = b"name: other\nmodel: m\nendpoint: e\nfeature_service: f\nlabel_view: l\nlabel: y\nentity_key: k\n"
    headers = {"content-type": "application/yaml"}
    refused = await trainer.http.put(f"{api}/pipelines/churn", content=yaml, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "pipeline_mismatch")
    stored = await trainer.http.put(f"{api}/pipelines/other", content=yaml, headers=headers)
    assert stored.json()["version"] == 1
    assert (await trainer.http.put(f"{api}/pipelines/other", content=yaml, headers=headers)).json()["version"] == 1
    broken = await trainer.http.put(f"{api}/pipelines/churn", content=b"a: [", headers=headers)
    assert (broken.status_code, broken.json()["code"]) == (422, "pipeline_unreadable")
    missing = await trainer.http.post(f"{api}/pipelines/nobody/runs")
    assert (missing.status_code, missing.json()["code"]) == (404, "pipeline_not_found")
    unknown = await trainer.http.post(f"{api}/pipelines/other/runs", json={"colour": {}})
    assert (unknown.status_code, unknown.json()["field"]) == (422, "colour")
    device = await trainer.http.post(f"{api}/pipelines/other/runs", json={"params": {"device": "cuda"}})
    assert (device.status_code, device.json()["code"]) == (422, "bad_parameter")
    cron = await trainer.http.post(f"{api}/schedules", json={"pipeline": "other", "cron": "61 * * * *"})
    assert (cron.status_code, cron.json()["code"]) == (422, "bad_schedule")
    assert (await trainer.http.get(f"{api}/runs/run_x")).status_code == 404


async def test_the_same_idempotency_key_starts_one_run_and_pages_continue(trainer):
    await trainer.put_pipeline(SPEC)
    path = "/api/trainer/v1/pipelines/churn/trigger"
    first = await trainer.http.post(path, headers={"idempotency-key": "ci-1"})
    again = await trainer.http.post(path, headers={"idempotency-key": "ci-1"})
    assert first.json()["id"] == again.json()["id"]
    assert first.json()["trigger"] == "webhook"
    for _ in range(2):
        await trainer.http.post(path)
    seen, token = [], ""
    while True:
        page = (await trainer.http.get("/api/trainer/v1/runs", params={"size": 2, "page_token": token})).json()
        seen += [run["id"] for run in page["runs"]]
        token = page["next_page_token"]
        if not token:
            break
    assert len(seen) == len(set(seen)) == 3
    assert seen[-1] == first.json()["id"]
