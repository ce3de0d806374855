"""What starts runs is decided where its pipeline acts, by the shipped policy: nobody deploys by way of the trainer."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest
from clave_common.access import Access, Caller
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import Snapshot
from clave_common.clock import FixedClock
from clave_common.errors import PermissionDenied
from clave_common.streams import Entry
from clave_contracts.events import Event, RetrainingRequested
from clave_contracts.registry import Endpoint
from clave_contracts.trainer import PipelineSpec, ScheduleSpec
from clave_testing.policies import engine, shipped_bundle
from clave_trainer.consumer import RetrainingConsumer
from clave_trainer.services.engine import StepRefused
from clave_trainer.services.pipelines import Pipelines
from clave_trainer.services.schedules import Schedules
from clave_trainer.steps.context import RunFacts
from clave_trainer.steps.release import roll_out
from trainer_bench import SPEC

pytestmark = pytest.mark.integration
DEV = Caller("user:dev", "user", "default", "api_key", 4e9, source_ip="127.0.0.1")
OPS = replace(DEV, subject_id="user:ops")
TRIAL = SPEC.model_copy(update={"namespace": "Development"})


def access_of(**changes: Any) -> Access:
    """The shipped policy, for an engineer of Development and one of every environment."""
    shipped = shipped_bundle()
    bound = {"role": "ml-engineer", "tenant": "default"}
    bindings = {
        **shipped.data["bindings"],
        "user:dev": [{**bound, "namespaces": ["Development"]}],
        "user:ops": [{**bound, "namespaces": ["*"]}],
    }
    bundle = PolicyBundle(shipped.modules, {**shipped.data, "bindings": bindings, **changes})
    held = Snapshot(1, time.time(), MappingProxyType({}), bundle)
    return Access(LocalDecisionPoint(engine(bundle), lambda: held), tenant="default")


async def runs_of(trainer) -> list[Any]:
    return list((await trainer.http.get("/api/trainer/v1/runs")).json()["runs"])


async def test_a_pipeline_is_written_by_who_may_act_where_it_acts(trainer):
    pipelines = Pipelines(trainer.database, access_of())
    with pytest.raises(PermissionDenied, match="namespace_not_bound"):
        await pipelines.put("churn", SPEC, DEV)
    assert (await pipelines.put("churn", TRIAL, DEV)).version == 1
    assert (await pipelines.put("churn", SPEC, OPS)).version == 2
    with pytest.raises(PermissionDenied, match="namespace_not_bound"):
        await pipelines.put("churn", TRIAL, DEV)  # it would take the pipeline out of Production


async def test_a_schedule_is_written_by_who_may_act_where_its_pipeline_acts(trainer):
    access, clock = access_of(), FixedClock(datetime.now(UTC))
    pipelines, schedules = Pipelines(trainer.database, access), Schedules(trainer.database, clock, access)
    await pipelines.put("churn", SPEC, OPS)
    await pipelines.put("trial", PipelineSpec(**{**TRIAL.model_dump(), "name": "trial"}), DEV)
    hourly, trial = ScheduleSpec(pipeline="churn", interval_s=60), ScheduleSpec(pipeline="trial", interval_s=60)
    kept = await schedules.put(None, hourly, OPS)
    await schedules.put("trials", trial, DEV)
    for forbidden in (
        schedules.put(None, hourly, DEV),
        schedules.put(kept.id, trial, DEV),
        schedules.put("trials", hourly, DEV),
        schedules.delete(kept.id, DEV),
        schedules.require_write(DEV, "churn"),
    ):
        with pytest.raises(PermissionDenied, match="namespace_not_bound"):
            await forbidden
    await schedules.delete("trials", DEV)


def requested(endpoint: str) -> Entry:
    data = RetrainingRequested(
        endpoint=endpoint, pipeline="churn", model="churn", model_version=1, decision_id="dec_1", reason="drift"
    )
    event = Event(
        type="RetrainingRequested", source="monitor", subject=f"endpoints/{endpoint}", data=data.model_dump(mode="json")
    )
    return Entry("clave.events.monitor", b"1-0", event.id, event.model_dump_json().encode())


async def test_in_lockdown_no_run_starts_by_itself(trainer):
    await trainer.put_pipeline(SPEC)
    clock = FixedClock(datetime.now(UTC))
    locked, open_again = access_of(lockdown=True), access_of()
    schedules = Schedules(trainer.database, clock, locked)
    hourly = ScheduleSpec(pipeline="churn", interval_s=60)
    kept = await Schedules(trainer.database, clock, open_again).put(None, hourly, OPS)
    clock.at += timedelta(seconds=90)
    await schedules.fire_due()
    await RetrainingConsumer(trainer.database, clock, locked).handle([requested("churn")])
    assert await runs_of(trainer) == []
    (shown,) = await schedules.list()
    assert (shown.id, shown.last_skip) == (kept.id, "the policy refuses it: lockdown")
    await RetrainingConsumer(trainer.database, clock, open_again).handle([requested("churn")])
    assert [run["trigger"] for run in await runs_of(trainer)] == ["retraining_requested"]


async def test_a_monitor_retrains_no_other_endpoints_pipeline(trainer):
    await trainer.put_pipeline(SPEC)
    consumer = RetrainingConsumer(trainer.database, FixedClock(datetime.now(UTC)), access_of())
    await consumer.handle([requested("trials")])
    assert await runs_of(trainer) == []


async def test_a_run_rolls_out_to_no_other_environment():
    class Registry:
        async def endpoint(self, name):
            return Endpoint(name=name, model="churn", namespace="Production", created_at=datetime.now(UTC))

    class Peers:
        registry = Registry()

    class Context:
        peers, own = Peers(), {}
        run = RunFacts("run_1", "churn", 1, TRIAL, "manual", "", "user:dev", None, True, None, datetime.now(UTC))

        def facts(self, step):
            return {"model": "churn", "version": 2}

    outcome = await roll_out(Context())
    assert isinstance(outcome, StepRefused)
    assert "acts in Development, and churn answers in Production" in outcome.reasons[0]
