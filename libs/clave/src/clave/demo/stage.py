"""What every part of the demo works with, and how it watches a pipeline run."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from clave_contracts.trainer import PipelineSpec, Run, Step

from clave.client import AsyncClient
from clave.demo.telco import Market
from clave.demo.timeline import Bar, Timeline
from clave.failures import Failure, TimedOut
from clave.repository import RepositoryFiles

T = TypeVar("T")
_POLL_S = 0.3
_OVER = {"succeeded", "failed", "refused", "cancelled"}
_STEP_OVER = {"succeeded", "failed", "refused", "cancelled"}


@dataclass(frozen=True)
class Plan:
    """How much the demo does.

    Attributes:
        seed: Makes the choice of customers repeatable.
        calm_rows: Predictions for known customers before anything changes.
        wave_rows_max: Predictions in the changed mix, at most, until the monitor must have decided.
        wave_share: Share of the wave in the changed mix, 0 to 1.
        batch_rows: Predictions between two looks at the monitor.
        patience_s: Seconds to wait for each thing that must happen by itself.
    """

    seed: int = 7
    calm_rows: int = 800
    wave_rows_max: int = 2400
    wave_share: float = 0.87
    batch_rows: int = 100
    patience_s: float = 180.0


@dataclass(frozen=True)
class Stage:
    """What every part of the demo works with.

    Attributes:
        timeline: Where it is told.
        admin: Speaks with the administrator's key.
        files: The feature repository.
        market: The real customers.
        plan: How much to do.
    """

    timeline: Timeline
    admin: AsyncClient
    files: RepositoryFiles
    market: Market
    plan: Plan

    @property
    def pipeline(self) -> PipelineSpec:
        """The one pipeline of the repository."""
        return self.files.pipelines[0]


async def until(
    question: Callable[[], Awaitable[T | None]], *, patience_s: float, what: str, pause_s: float = _POLL_S
) -> T:
    """Ask again and again until there is an answer.

    Raises:
        TimedOut: There was none in time.
    """
    deadline = time.monotonic() + patience_s
    while (answer := await question()) is None:
        if time.monotonic() > deadline:
            raise TimedOut(f"Waited {patience_s:.0f} s for {what}.", remedy="`clave logs` shows what the services say.")
        await asyncio.sleep(pause_s)
    return answer


async def watch_run(stage: Stage, run_id: str) -> Run:
    """Follow a run to its end, telling each step as it ends."""
    told: set[str] = set()
    with stage.timeline.bar(f"run {run_id}") as bar:

        async def look() -> Run | None:
            run = await stage.admin.trainer.run(run_id)
            for step in run.steps:
                if step.state in _STEP_OVER and step.name not in told:
                    told.add(step.name)
                    _tell_step(stage.timeline, step)
            _show(bar, run)
            return run if run.status in _OVER else None

        # A canary takes its time by design; the run's own steps carry the tighter limits.
        return await until(look, patience_s=stage.plan.patience_s * 2, what=f"run {run_id} to end")


def expect_success(run: Run) -> Run:
    """Give a run back that succeeded.

    Raises:
        Failure: It ended otherwise; names the step and its message.
    """
    if run.status == "succeeded":
        return run
    stopped = [f"{step.name}: {step.message}" for step in run.steps if step.state in {"failed", "refused"}]
    raise Failure(
        f"Run {run.id} ended {run.status}. {'; '.join(stopped or run.reasons)}",
        remedy=f"See `clave runs show {run.id}` and `clave logs worker`.",
    )


def _tell_step(timeline: Timeline, step: Step) -> None:
    took_s = None
    if step.started_at is not None and step.finished_at is not None:
        took_s = round((step.finished_at - step.started_at).total_seconds(), 2)
    timeline.line(
        f"  {step.state:<9} {step.name:<14} {'' if took_s is None else f'{took_s:5.1f} s'}  {step.message}",
        style="" if step.state == "succeeded" else "red",
        step=step.name,
        state=step.state,
        attempt=step.attempt,
        seconds=took_s,
        message=step.message,
        output=step.output,
    )


def _show(bar: Bar, run: Run) -> None:
    active = next((step for step in run.steps if step.state in {"running", "waiting", "ready"}), None)
    done = sum(1.0 if step.state in _STEP_OVER else step.progress for step in run.steps)
    if active is not None:
        bar.update(done / max(1, len(run.steps)), f"{active.name} {active.message}".strip())
