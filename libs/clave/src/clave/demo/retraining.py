"""Retrain: the challenger that the monitor asked for, its gates, its canary; and a bad one that the gates refuse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clave_contracts.monitor import Decision
from clave_contracts.registry import Rollout
from clave_contracts.trainer import Run

from clave.demo.stage import Stage, expect_success, until, watch_run
from clave.demo.telco import draw_stream
from clave.demo.traffic import Application
from clave.failures import Failure

_TRAFFIC_ROWS = 40
# Two stumps: a challenger that no honest gate lets through.
_CRIPPLED = {"rounds": 2, "max_depth": 1}


async def retrain(stage: Stage, application: Application, decision: Decision) -> Run:
    """Follow the run that the decision started until its challenger has been promoted, under traffic."""
    stage.timeline.chapter("Retrain: challenger, gates, canary, promotion; the application keeps asking")

    async def look() -> Run | None:
        page = await stage.admin.trainer.runs(pipeline=stage.pipeline.name)
        return next((run for run in page.runs if run.retraining_decision_id == decision.id), None)

    run = await until(look, patience_s=60, what="the retraining run to start")
    stage.timeline.line(
        f"run {run.id} started by itself ({run.trigger}, {run.requested_by}): {run.reason}",
        run_id=run.id,
        trigger=run.trigger,
        requested_by=run.requested_by,
    )
    async with _traffic(stage, application):
        finished = expect_success(await watch_run(stage, run.id))
    stage.timeline.mark("promoted")
    if finished.rollout_id is not None:
        _tell_rollout(stage, await stage.admin.registry.rollout(finished.rollout_id))
    return finished


@asynccontextmanager
async def _traffic(stage: Stage, application: Application) -> AsyncIterator[None]:
    """Keep the application asking in the changed mix while something else happens."""
    plan = stage.plan
    stream = draw_stream(stage.market, rows=plan.wave_rows_max, wave_share=plan.wave_share, seed=plan.seed + 3)

    async def ask_on() -> None:
        position = 0
        while True:
            await application.serve(stream[position : position + _TRAFFIC_ROWS])
            position = (position + _TRAFFIC_ROWS) % (len(stream) - _TRAFFIC_ROWS)
            await asyncio.sleep(0.1)  # an application, not a load test: training shares these cores

    asking = asyncio.create_task(ask_on())
    try:
        yield
    finally:
        if asking.done():
            asking.result()  # a fault of the traffic is a fault of the demo
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def _tell_rollout(stage: Stage, rollout: Rollout) -> None:
    for event in rollout.events:
        stage.timeline.line(
            f"  rollout {event.state:<10} {event.weight:>4.0%}  {event.detail}", at=event.at.isoformat()
        )
    stage.timeline.line(
        f"v{rollout.version} {rollout.state} (from v{rollout.from_version}): {rollout.outcome}",
        style="bold",
        rollout=rollout.model_dump(mode="json"),
    )


async def refuse_bad_challenger(stage: Stage) -> Run:
    """Ask for a crippled challenger and see it refused before it answers anybody.

    Raises:
        Failure: It was not refused.
    """
    stage.timeline.chapter("A bad challenger: two stumps instead of a forest")
    run = await stage.admin.start_run(
        stage.pipeline.name, reason="demo: a challenger that must not pass", params=dict(_CRIPPLED)
    )
    finished = await watch_run(stage, run.id)
    if finished.status != "refused":
        raise Failure(f"The crippled challenger was not refused; run {finished.id} ended {finished.status}.")
    stage.timeline.mark("bad_challenger_refused")
    for gate in finished.gates:
        if gate.verdict == "failed":
            stage.timeline.line(f"  gate {gate.gate:<18} failed  {gate.detail}", style="red", gate=gate.model_dump())
    endpoint = await stage.admin.registry.endpoint(stage.pipeline.endpoint)
    stage.timeline.line(
        f"refused by its gates; the endpoint stays on v{endpoint.live_version}",
        style="bold",
        run=finished.model_dump(mode="json"),
    )
    return finished
