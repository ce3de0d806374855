"""Operations on runs: start, read, cancel, try again."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clave_common.access import Access, Caller, Resource
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.ids import new_id
from clave_common.pages import decode_token, encode_token
from clave_contracts.events import AuditEntry, Event, RunStarted
from clave_contracts.trainer import Attempt, Pipeline, Run, RunCreate, RunPage

from clave_trainer.domain.parameters import check_parameters, effective
from clave_trainer.domain.pipeline_steps import TRAINING_PIPELINE, RunStatus
from clave_trainer.services.engine import finish_run
from clave_trainer.services.errors import (
    DecisionHasRun,
    PipelineNotFound,
    RunHasEnded,
    RunNotFound,
    RunNotRetryable,
    TooManyRuns,
)
from clave_trainer.services.leave import wanted_resources
from clave_trainer.storage import engine, runs

ACTIVE_RUNS_MAX = 20
_CANCELLED = "cancelled on request"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who or what asked for a run.

    Attributes:
        trigger: ``manual``, ``retraining_requested``, ``schedule`` or ``webhook``.
        requested_by: Principal whose will it is; it counts as a contributor of the version.
        actor: Principal that asked; a service where it acts for another.
    """

    trigger: str
    requested_by: str
    actor: str
    tenant: str = "default"


async def add_run(tx: Transaction, pipeline: Pipeline, request: RunCreate, origin: Origin, clock: Clock) -> str:
    """Insert a run within the transaction of whatever causes it.

    Raises:
        BadParameter: A parameter of the run is out of its range.
        TooManyRuns: The pipeline has too many unfinished runs.
    """
    check_parameters(request.params)
    active = await runs.active_runs(tx.session, pipeline.name)
    if active >= ACTIVE_RUNS_MAX:
        raise TooManyRuns(
            f"Pipeline {pipeline.name!r} has {active} unfinished runs; let some end or cancel them.",
            limit=ACTIVE_RUNS_MAX,
        )
    run_id = new_id("run")
    params = effective(pipeline.spec.params, request.params, seed=pipeline.spec.seed)
    spec = pipeline.spec.model_copy(update={"params": params})
    values: dict[str, Any] = {
        "id": run_id,
        "pipeline": pipeline.name,
        "pipeline_version": pipeline.version,
        "spec": spec.model_dump(mode="json"),
        "status": RunStatus.QUEUED.value,
        "trigger": origin.trigger,
        "reason": request.reason,
        "requested_by": origin.requested_by,
        "tenant": origin.tenant,
        "evaluation_after": request.evaluation_after,
        "roll_out": request.roll_out,
        "retraining_decision_id": request.retraining_decision_id,
        "created_at": clock.now(),
    }
    await runs.add_run(tx.session, values, TRAINING_PIPELINE)
    await engine.make_ready(tx.session, run_id)
    await _tell_start(tx, run_id, pipeline, request, origin)
    return run_id


async def _tell_start(tx: Transaction, run_id: str, pipeline: Pipeline, request: RunCreate, origin: Origin) -> None:
    data = RunStarted(
        run_id=run_id,
        pipeline=pipeline.name,
        endpoint=pipeline.spec.endpoint,
        requested_by=origin.requested_by,
        retraining_decision_id=request.retraining_decision_id,
    )
    event = Event(
        type="RunStarted",
        source="trainer",
        subject=f"runs/{run_id}",
        tenant=origin.tenant,
        data=data.model_dump(mode="json"),
    )
    await tx.emit(event)
    await tx.audit(
        AuditEntry(
            service="trainer",
            actor=origin.actor,
            on_behalf_of=origin.requested_by if origin.requested_by != origin.actor else None,
            tenant=origin.tenant,
            action="training:run.create",
            resource=f"runs/{run_id}",
            details={"pipeline": pipeline.name, "trigger": origin.trigger, "reason": request.reason[:500]},
        )
    )


class Runs:
    """Starts, shows and stops runs."""

    def __init__(self, database: Database, clock: Clock, access: Access) -> None:
        self._database = database
        self._clock = clock
        self._access = access

    async def require_start(self, pipeline_name: str, caller: Caller) -> Pipeline:
        """Ask the policy whether the caller may start runs of a pipeline, and give its definition.

        Raises:
            PipelineNotFound: No such pipeline.
            PermissionDenied: The policy said no for the pipeline's namespace or the tenant's quota.
        """
        async with self._database.transaction() as tx:
            pipeline = await runs.pipeline(tx.session, pipeline_name)
            running = await runs.active_runs_of(tx.session, caller.tenant)
        if pipeline is None:
            raise PipelineNotFound(pipeline_name)
        resource = _resource(
            f"pipelines/{pipeline_name}/runs",
            caller,
            pipeline.spec.namespace,
            request=wanted_resources(),
            features=[],  # its steps read them as `features:offline.read`, where the purpose of each is judged
        )
        await self._access.require(caller, "training:run.create", resource, running_jobs=running)
        return pipeline

    async def start(self, pipeline: Pipeline, request: RunCreate, caller: Caller, *, trigger: str) -> Run:
        """Start a run of a pipeline that `require_start` gave.

        Raises:
            BadParameter: A parameter of the run is out of its range.
            DecisionHasRun: The retraining decision has started a run before.
        """
        origin = Origin(trigger, caller.acting_for, caller.subject_id, caller.tenant)
        async with self._database.transaction() as tx:
            if request.retraining_decision_id:
                earlier = await runs.run_of_decision(tx.session, request.retraining_decision_id)
                if earlier is not None:
                    raise DecisionHasRun(f"That decision started run {earlier} already.", run=earlier)
            run_id = await add_run(tx, pipeline, request, origin, self._clock)
            return await _described(tx, run_id)

    async def get(self, run_id: str) -> Run:
        """Read a run with its steps.

        Raises:
            RunNotFound: No such run.
        """
        async with self._database.transaction() as tx:
            return await _described(tx, run_id)

    async def attempts(self, run_id: str) -> list[Attempt]:
        """Read the journal of a run's attempts, oldest first.

        Raises:
            RunNotFound: No such run.
        """
        async with self._database.transaction() as tx:
            await _described(tx, run_id)
            rows = await runs.attempts(tx.session, run_id)
        return [
            Attempt(
                step=row.step,
                number=row.number,
                worker=row.worker,
                started_at=row.started_at,
                finished_at=row.finished_at,
                outcome=row.outcome,
                error=row.error,
            )
            for row in rows
        ]

    async def page(self, caller: Caller, *, pipeline: str | None, size: int, token: str | None) -> RunPage:
        """List the runs that the caller sees without steps, newest first."""
        query = f"runs:{pipeline}"
        before = None
        if token:
            at, run_id = decode_token(token, query=query, kinds=(datetime, str))
            before = (datetime.fromisoformat(at), str(run_id))
        async with self._database.transaction() as tx:
            rows = await runs.page(tx.session, caller, pipeline_name=pipeline, before=before, size=size + 1)
        following = ""
        if len(rows) > size:
            last = rows[size - 1]
            following = encode_token([last.created_at.isoformat(), last.id], query=query)
        return RunPage(runs=[runs.to_run(row, []) for row in rows[:size]], next_page_token=following)

    async def cancel(self, run_id: str, caller: Caller) -> Run:
        """Stop a run: no step starts any more, and a running one loses its lease and stops at its next heartbeat.

        Raises:
            RunNotFound: No such run.
            RunHasEnded: It is over.
        """
        await self._require_change(run_id, caller)
        async with self._database.transaction() as tx:
            await engine.lock_run(tx.session, run_id)
            row = await runs.run_row(tx.session, run_id)
            if row is None:
                raise RunNotFound(run_id)
            if row.finished_at is not None:
                raise RunHasEnded(f"Run {run_id} has ended: {row.status}.", status=row.status)
            await engine.stop_steps(tx.session, run_id, state="cancelled", message=_CANCELLED)
            await runs.change_run(tx.session, run_id, reasons=[f"{_CANCELLED} by {caller.acting_for}"])
            await finish_run(tx, run_id, RunStatus.CANCELLED, self._clock)
            await _audit(tx, caller, run_id, {"change": "cancel"})
            return await _described(tx, run_id)

    async def retry(self, run_id: str, caller: Caller) -> Run:
        """Try a failed or cancelled run again from its first unfinished step; finished ones keep their results.

        Raises:
            RunNotFound: No such run.
            RunNotRetryable: It goes on, succeeded, or was refused (start a new run for another candidate).
        """
        await self._require_change(run_id, caller)
        async with self._database.transaction() as tx:
            await engine.lock_run(tx.session, run_id)
            row = await runs.run_row(tx.session, run_id)
            if row is None:
                raise RunNotFound(run_id)
            if row.status not in {RunStatus.FAILED, RunStatus.CANCELLED}:
                raise RunNotRetryable(
                    f"Run {run_id} is {row.status}; only a failed or cancelled one can be tried again.",
                    status=row.status,
                )
            await engine.restart_steps(tx.session, run_id)
            await runs.change_run(tx.session, run_id, status=RunStatus.RUNNING.value, finished_at=None, reasons=[])
            await engine.make_ready(tx.session, run_id)
            await _audit(tx, caller, run_id, {"change": "retry"})
            return await _described(tx, run_id)

    async def _require_change(self, run_id: str, caller: Caller) -> None:
        async with self._database.transaction() as tx:
            row = await runs.run_row(tx.session, run_id)
        if row is None:
            raise RunNotFound(run_id)
        resource = _resource(f"runs/{run_id}", caller, str(row.spec.get("namespace", "Production")))
        await self._access.require(caller, "training:run.cancel", resource)


def _resource(identifier: str, caller: Caller, namespace: str, **properties: Any) -> Resource:
    return Resource("run", identifier, {"tenant": caller.tenant, "namespace": namespace, **properties})


async def _described(tx: Transaction, run_id: str) -> Run:
    run = await runs.describe(tx.session, run_id)
    if run is None:
        raise RunNotFound(run_id)
    return run


async def _audit(tx: Transaction, caller: Caller, run_id: str, details: dict[str, Any]) -> None:
    await tx.audit(
        AuditEntry(
            service="trainer",
            actor=caller.subject_id,
            on_behalf_of=caller.on_behalf_of,
            tenant=caller.tenant,
            action="training:run.cancel",
            resource=f"runs/{run_id}",
            details=details,
        )
    )
