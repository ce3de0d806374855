"""Queries on pipelines and runs."""

from datetime import datetime
from typing import Any, cast

from clave_common.access import Caller
from clave_common.access.filters import visible_to
from clave_contracts.registry import GateVerdict
from clave_contracts.trainer import Pipeline, PipelineSpec, Run, Step
from sqlalchemy import Row, func, insert, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_trainer.domain.pipeline_steps import StepPlan
from clave_trainer.storage.tables import ATTEMPTS, PIPELINES, RUNS, STEPS


async def put_pipeline(session: AsyncConnection, spec: PipelineSpec, by: str) -> Pipeline:
    """Store a definition; the version counts its changes."""
    document = spec.model_dump(mode="json")
    statement = upsert(PIPELINES).values(name=spec.name, version=1, spec=document, updated_by=by)
    changed = PIPELINES.c.spec != statement.excluded.spec
    statement = statement.on_conflict_do_update(
        index_elements=[PIPELINES.c.name],
        set_={
            "version": PIPELINES.c.version + 1,
            "spec": statement.excluded.spec,
            "updated_by": by,
            "updated_at": func.now(),
        },
        where=changed,
    )
    await session.execute(statement)
    stored = await pipeline(session, spec.name)
    if stored is None:
        raise LookupError(spec.name)
    return stored


async def pipeline(session: AsyncConnection, name: str) -> Pipeline | None:
    """Read a definition."""
    row = (await session.execute(select(PIPELINES).where(PIPELINES.c.name == name))).first()
    return _pipeline(row) if row else None


async def pipelines(session: AsyncConnection) -> list[Pipeline]:
    """Read every definition by name."""
    return [_pipeline(row) for row in await session.execute(select(PIPELINES).order_by(PIPELINES.c.name))]


def _pipeline(row: Row[Any]) -> Pipeline:
    return Pipeline(
        name=row.name,
        version=row.version,
        spec=PipelineSpec.model_validate(row.spec),
        updated_at=row.updated_at,
        updated_by=row.updated_by,
    )


async def add_run(session: AsyncConnection, values: dict[str, Any], plan: tuple[StepPlan, ...]) -> None:
    """Insert a run and its steps."""
    await session.execute(insert(RUNS).values(**values))
    await session.execute(
        insert(STEPS),
        [
            {
                "run_id": values["id"],
                "name": step.name,
                "position": position,
                "deps": list(step.deps),
                "resource_class": step.resource_class.value,
                "state": "pending",
                "attempts_max": step.attempts_max,
                "timeout_s": step.timeout_s,
            }
            for position, step in enumerate(plan)
        ],
    )


async def change_run(session: AsyncConnection, run_id: str, **values: Any) -> None:
    """Set columns of a run."""
    await session.execute(update(RUNS).where(RUNS.c.id == run_id).values(**values))


async def run_row(session: AsyncConnection, run_id: str) -> Row[Any] | None:
    """Read a run without its steps."""
    return (await session.execute(select(RUNS).where(RUNS.c.id == run_id))).first()


async def run_of_decision(session: AsyncConnection, decision_id: str) -> str | None:
    """Find the run that a retraining decision started."""
    statement = select(RUNS.c.id).where(RUNS.c.retraining_decision_id == decision_id)
    return cast("str | None", (await session.execute(statement)).scalar_one_or_none())


async def active_runs(session: AsyncConnection, pipeline_name: str) -> int:
    """Count a pipeline's runs that have not ended."""
    statement = (
        select(func.count()).select_from(RUNS).where(RUNS.c.pipeline == pipeline_name, RUNS.c.finished_at.is_(None))
    )
    return int((await session.execute(statement)).scalar_one())


async def active_runs_of(session: AsyncConnection, tenant: str) -> int:
    """Count a tenant's runs that have not ended."""
    statement = select(func.count()).select_from(RUNS).where(RUNS.c.tenant == tenant, RUNS.c.finished_at.is_(None))
    return int((await session.execute(statement)).scalar_one())


async def step_rows(session: AsyncConnection, run_id: str) -> list[Row[Any]]:
    """Read a run's steps in order."""
    statement = select(STEPS).where(STEPS.c.run_id == run_id).order_by(STEPS.c.position)
    return list(await session.execute(statement))


async def outputs(session: AsyncConnection, run_id: str) -> dict[str, dict[str, Any]]:
    """Read what a run's succeeded steps gave, by step."""
    statement = select(STEPS.c.name, STEPS.c.output).where(STEPS.c.run_id == run_id, STEPS.c.state == "succeeded")
    return {row.name: row.output for row in await session.execute(statement)}


async def step_output(session: AsyncConnection, run_id: str, step: str) -> dict[str, Any]:
    """Read what a step has noted so far, also while it waits."""
    statement = select(STEPS.c.output).where(STEPS.c.run_id == run_id, STEPS.c.name == step)
    return dict((await session.execute(statement)).scalar_one_or_none() or {})


async def latest_output(session: AsyncConnection, pipeline_name: str, step: str) -> dict[str, Any]:
    """Read what the latest success of a step gave in any run of a pipeline; empty when there is none."""
    statement = (
        select(STEPS.c.output)
        .join(RUNS, RUNS.c.id == STEPS.c.run_id)
        .where(RUNS.c.pipeline == pipeline_name, STEPS.c.name == step, STEPS.c.state == "succeeded")
        .order_by(STEPS.c.finished_at.desc())
        .limit(1)
    )
    return dict((await session.execute(statement)).scalar_one_or_none() or {})


async def attempts(session: AsyncConnection, run_id: str) -> list[Row[Any]]:
    """Read the journal of a run's attempts, oldest first."""
    statement = select(ATTEMPTS).where(ATTEMPTS.c.run_id == run_id).order_by(ATTEMPTS.c.seq)
    return list(await session.execute(statement))


async def describe(session: AsyncConnection, run_id: str) -> Run | None:
    """Read a run with its steps."""
    row = await run_row(session, run_id)
    return to_run(row, await step_rows(session, run_id)) if row else None


async def page(
    session: AsyncConnection,
    caller: Caller,
    *,
    pipeline_name: str | None,
    before: tuple[datetime, str] | None,
    size: int,
) -> list[Row[Any]]:
    """Read the runs that a caller sees without steps, newest first."""
    seen = visible_to(caller, tenant=RUNS.c.tenant, resource_id=literal("runs/") + RUNS.c.id)
    statement = select(RUNS).where(seen).order_by(RUNS.c.created_at.desc(), RUNS.c.id.desc()).limit(size)
    if pipeline_name is not None:
        statement = statement.where(RUNS.c.pipeline == pipeline_name)
    if before is not None:
        statement = statement.where(tuple_(RUNS.c.created_at, RUNS.c.id) < tuple_(*before))
    return list(await session.execute(statement))


def to_run(row: Row[Any], steps: list[Row[Any]]) -> Run:
    """Render a run."""
    return Run(
        id=row.id,
        pipeline=row.pipeline,
        status=row.status,
        trigger=row.trigger,
        reason=row.reason,
        requested_by=row.requested_by,
        steps=[_step(each) for each in steps],
        gates=[GateVerdict.model_validate(gate) for gate in row.gates],
        reasons=row.reasons,
        model=row.model,
        model_version=row.model_version,
        rollout_id=row.rollout_id,
        created_at=row.created_at,
        finished_at=row.finished_at,
        retraining_decision_id=row.retraining_decision_id,
    )


def _step(row: Row[Any]) -> Step:
    return Step(
        name=row.name,
        state=row.state,
        attempt=row.attempt,
        progress=row.progress,
        message=row.message,
        started_at=row.started_at,
        finished_at=row.finished_at,
        output=row.output,
    )
