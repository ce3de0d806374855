"""The durable engine's transitions: claim, renew, finish, wait, fail, refuse, reap, ring.

Postgres holds every truth. Celery messages are doorbells without content: they may be lost, doubled or late, and
nothing but a claim in Postgres starts a step. Each transition is one short transaction guarded by state and token,
so repeating one is harmless, and a run's fan-in happens under a lock on the run.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.logs import get_logger
from clave_contracts.events import Event, RunFinished
from clave_contracts.registry import GateVerdict

from clave_trainer.domain.pipeline_steps import RUN_ENDED, RunStatus, StepState, backoff_s, status_of
from clave_trainer.storage import engine, runs
from clave_trainer.storage.engine import Held

_log = get_logger(__name__)
BELLS_MAX = 50
STALE_BELL_S = 5.0


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gives when it ends well.

    Attributes:
        output: Facts and artifact pointers (path to digest and size), committed with the state.
        message: One line for people.
        gates: Verdicts to show on the run, also when the run goes on.
        run: Columns of the run to set (``model``, ``model_version``, ``rollout_id``).
    """

    output: dict[str, Any]
    message: str
    gates: list[GateVerdict] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepWaits:
    """A step that waits for something outside; it holds no worker until `wake_s` seconds have passed."""

    message: str
    wake_s: float
    output: dict[str, Any] | None = None
    run: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepRefused:
    """An expected end: the run must not go on, for these reasons."""

    reasons: list[str]
    output: dict[str, Any] = field(default_factory=dict)
    gates: list[GateVerdict] = field(default_factory=list)


class Engine:
    """Moves steps and runs."""

    def __init__(self, database: Database, clock: Clock, *, lease_s: float) -> None:
        self._database = database
        self._clock = clock
        self.lease_s = lease_s

    async def claim(self, resource_class: str, worker: str) -> Held | None:
        """Take the oldest ready step of a class; None when there is nothing to do."""
        async with self._database.transaction() as tx:
            held = await engine.claim(
                tx.session, token=uuid4().hex, resource_class=resource_class, lease_s=self.lease_s, worker=worker
            )
            if held is not None:
                await self._refresh_run(tx, held.run_id)
        return held

    async def renew(self, held: Held, *, progress: float | None = None, message: str | None = None) -> bool:
        """Show a sign of life; False when the step was taken away or the run cancelled."""
        async with self._database.transaction() as tx:
            return await engine.renew(tx.session, held, lease_s=self.lease_s, progress=progress, message=message)

    async def succeed(self, held: Held, result: StepResult) -> bool:
        """Commit a step's output and pass its run on."""

        async def after(tx: Transaction) -> None:
            if result.gates:
                await runs.change_run(tx.session, held.run_id, gates=[g.model_dump() for g in result.gates])
            await engine.make_ready(tx.session, held.run_id)

        return await self._let_go(
            held, StepState.SUCCEEDED, result.message, output=result.output, run=result.run, after=after
        )

    async def wait(self, held: Held, waits: StepWaits) -> bool:
        """Park a step until its wake time."""
        return await self._let_go(
            held, StepState.WAITING, waits.message, output=waits.output, run=waits.run, delay_s=waits.wake_s
        )

    async def refuse(self, held: Held, refused: StepRefused) -> bool:
        """End a run whose candidate must not go on."""

        async def after(tx: Transaction) -> None:
            values: dict[str, Any] = {"reasons": refused.reasons}
            if refused.gates:
                values["gates"] = [gate.model_dump() for gate in refused.gates]
            await runs.change_run(tx.session, held.run_id, **values)
            await engine.stop_steps(tx.session, held.run_id, state="skipped", message="an earlier step refused")

        message = "; ".join(refused.reasons)
        return await self._let_go(held, StepState.REFUSED, message, output=refused.output, after=after)

    async def fail(self, held: Held, message: str, *, retry: bool) -> bool:
        """Note a failed attempt: try again after a back-off, or end the run."""
        if retry and held.attempt < held.attempts_max:
            told = f"attempt {held.attempt} failed: {message}"
            return await self._let_go(held, StepState.READY, told, delay_s=backoff_s(held.attempt), error=message)

        async def after(tx: Transaction) -> None:
            await runs.change_run(tx.session, held.run_id, reasons=[f"{held.name}: {message}"])
            await engine.stop_steps(tx.session, held.run_id, state="skipped", message="an earlier step failed")

        return await self._let_go(held, StepState.FAILED, message, after=after, error=message)

    async def _let_go(
        self,
        held: Held,
        state: StepState,
        message: str,
        *,
        output: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
        delay_s: float = 0.0,
        after: Callable[[Transaction], Awaitable[None]] | None = None,
        error: str | None = None,
    ) -> bool:
        async with self._database.transaction() as tx:
            await engine.lock_run(tx.session, held.run_id)
            if not await engine.settle(tx.session, held, state=state, message=message, output=output, delay_s=delay_s):
                return False
            await engine.end_attempt(tx.session, held.token, outcome="failed" if error else str(state), error=error)
            if run:
                await runs.change_run(tx.session, held.run_id, **run)
            if after is not None:
                await after(tx)
            await self._refresh_run(tx, held.run_id)
        return True

    async def reap(self) -> int:
        """Give back the steps of lost workers; steps without attempts left fail their run."""
        async with self._database.transaction() as tx:
            lost = await engine.reap(tx.session)
            for run_id, name, state in lost:
                _log.warning("worker_lost", run_id=run_id, step=name, state=state)
                await engine.lock_run(tx.session, run_id)
                if state == StepState.FAILED:
                    reason = f"{name}: the worker was lost at every attempt"
                    await runs.change_run(tx.session, run_id, reasons=[reason])
                    await engine.stop_steps(tx.session, run_id, state="skipped", message="an earlier step failed")
                await self._refresh_run(tx, run_id)
            await engine.wake(tx.session)
            await engine.forget_stale_bells(tx.session, STALE_BELL_S)
        return len(lost)

    async def ring(self, bell: Callable[[str], Awaitable[None]]) -> int:
        """Ring for every ready step without a bell.

        The bells are sent after the commit: a worker that hears one must not find the step locked by us. A bell
        that is lost between the two rings again as a stale one.

        Args:
            bell: Sends a doorbell to a resource class; may raise while the broker is away.
        """
        async with self._database.transaction() as tx:
            waiting = await engine.unrung(tx.session, BELLS_MAX)
            for run_id, name, _ in waiting:
                await engine.mark_rung(tx.session, run_id, name)
        for _, _, resource_class in waiting:
            await bell(resource_class)
        return len(waiting)

    async def _refresh_run(self, tx: Transaction, run_id: str) -> None:
        """Derive the run's status from its steps; tell others once it has ended."""
        row = await runs.run_row(tx.session, run_id)
        if row is None or row.finished_at is not None:
            return
        status = status_of([StepState(state) for state in await engine.states_of(tx.session, run_id)])
        if status in RUN_ENDED:
            await finish_run(tx, run_id, status, self._clock)
        elif status != row.status:
            await runs.change_run(tx.session, run_id, status=status)


async def finish_run(tx: Transaction, run_id: str, status: RunStatus, clock: Clock) -> None:
    """Close a run and emit `RunFinished` in the same transaction."""
    await runs.change_run(tx.session, run_id, status=status, finished_at=clock.now())
    row = await runs.run_row(tx.session, run_id)
    if row is None:
        return
    data = RunFinished(
        run_id=run_id,
        pipeline=row.pipeline,
        endpoint=row.spec.get("endpoint"),
        status=status.value,
        model=row.model,
        model_version=row.model_version,
        requested_by=row.requested_by,
        retraining_decision_id=row.retraining_decision_id,
        reasons=list(row.reasons),
    )
    await tx.emit(
        Event(
            type="RunFinished",
            source="trainer",
            subject=f"runs/{run_id}",
            tenant=row.tenant,
            data=data.model_dump(mode="json"),
        )
    )
