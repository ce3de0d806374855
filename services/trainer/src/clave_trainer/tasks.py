"""The worker's door: hears a bell, claims a step, holds its lease, works, and commits how it ended.

Each heartbeat renews the lease and carries the progress. A worker whose step was taken away, or that cannot reach
Postgres for as long as a lease, stops the work by itself before anybody else starts it.
"""

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import dataclass, field

from clave_common.blobstore import BlobStore
from clave_common.database import Database
from clave_common.errors import ClaveError, Kind
from clave_common.ids import new_id
from clave_common.logs import get_logger
from clave_contracts.problems import ServiceProblem
from clave_contracts.trainer import PipelineSpec
from pydantic import ValidationError
from sqlalchemy import Row

from clave_trainer.domain.pipeline_steps import COLLECT_FEEDBACK
from clave_trainer.services.engine import Engine, StepRefused, StepResult, StepWaits
from clave_trainer.settings import TrainerSettings
from clave_trainer.steps.context import Outcome, Peers, RunFacts, StepContext
from clave_trainer.steps.registry import HANDLERS
from clave_trainer.storage import runs
from clave_trainer.storage.engine import Held

_log = get_logger(__name__)
_RETRYABLE_STATUS = frozenset({0, 408, 425, 429, 500, 502, 503, 504})
_RETRYABLE_KIND = frozenset({Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.INTERNAL, Kind.RESOURCE_EXHAUSTED})


class LeaseLost(Exception):
    """The step is no longer this worker's: taken after silence, or its run was cancelled."""


@dataclass
class _Progress:
    """What the next heartbeat tells."""

    share: float | None = None
    message: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def report(self, share: float, message: str) -> None:
        self.share, self.message = min(max(share, 0.0), 1.0), message
        self.changed.set()


class Worker:
    """Answers doorbells within one event loop."""

    def __init__(
        self, settings: TrainerSettings, *, database: Database, engine: Engine, peers: Peers, blobs: BlobStore
    ) -> None:
        self._settings = settings
        self._database = database
        self._engine = engine
        self._peers = peers
        self._blobs = blobs
        self.name = f"{socket.gethostname()}:{os.getpid()}"

    async def answer(self, resource_class: str) -> bool:
        """Do one step of a class, if there is one.

        Returns:
            Whether there was work; an empty bell is harmless.
        """
        held = await self._engine.claim(resource_class, self.name)
        if held is None:
            return False
        log = _log.bind(run_id=held.run_id, step=held.name, attempt=held.attempt)
        started = time.monotonic()
        try:
            outcome = await self._hold(held)
            kept = await self._commit(held, outcome)
            log.info(
                "step_ended" if kept else "step_fenced",
                outcome=type(outcome).__name__,
                seconds=round(time.monotonic() - started, 2),
            )
        except LeaseLost:
            log.warning("lease_lost")
        except TimeoutError:
            await self._engine.fail(held, f"not done within {held.timeout_s:g} s", retry=True)
            log.warning("step_timed_out", timeout_s=held.timeout_s)
        except ServiceProblem as problem:
            message = f"{problem.code}: {problem}"
            await self._engine.fail(held, message, retry=problem.status in _RETRYABLE_STATUS)
            log.warning("step_refused_by_service", status=problem.status, code=problem.code)
        except ClaveError as error:
            await self._engine.fail(held, error.detail, retry=error.kind in _RETRYABLE_KIND)
            log.warning("step_failed", code=error.code, detail=error.detail)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            await self._engine.fail(held, f"{error.title}: {place}: {fault['msg']}", retry=False)
            log.warning("step_made_an_invalid_request", title=error.title, field=place)
        except Exception:
            error_id = new_id("err")
            log.exception("step_broke", error_id=error_id)
            await self._engine.fail(held, f"internal fault {error_id}, told in the worker's log", retry=True)
        return True

    async def _hold(self, held: Held) -> Outcome:
        """Work under a lease; whatever ends first decides.

        Raises:
            LeaseLost: The heartbeat found the step gone.
            TimeoutError: The step took longer than it may.
        """
        progress = _Progress()
        work = asyncio.create_task(self._work(held, progress))
        heart = asyncio.create_task(self._beat(held, progress))
        try:
            await asyncio.wait({work, heart}, timeout=held.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if heart.done():
                heart.result()
            raise TimeoutError
        finally:
            for task in (work, heart):
                task.cancel()
            await asyncio.gather(work, heart, return_exceptions=True)

    async def _work(self, held: Held, progress: _Progress) -> Outcome:
        async with self._database.transaction() as tx:
            row = await runs.run_row(tx.session, held.run_id)
            if row is None:
                raise LeaseLost
            outputs = await runs.outputs(tx.session, held.run_id)
            own = await runs.step_output(tx.session, held.run_id, held.name)
            earlier = await runs.latest_output(tx.session, row.pipeline, COLLECT_FEEDBACK)
        context = StepContext(
            name=held.name,
            run=_facts(row),
            outputs=outputs,
            own=own,
            earlier=earlier,
            peers=self._peers,
            blobs=self._blobs,
            rooms=self._settings.data_dir / "rooms",
            worker_pid=os.getpid(),
            threads=self._settings.threads,
            memory_bytes_max=self._settings.step_memory_bytes_max,
            report=progress.report,
        )
        return await HANDLERS[held.name](context)

    async def _beat(self, held: Held, progress: _Progress) -> None:
        """Renew at a third of the lease, sooner where there is progress to tell.

        Raises:
            LeaseLost: The step was taken away, or Postgres has not answered for as long as a lease.
        """
        third = self._engine.lease_s / 3
        alive = time.monotonic()
        while True:
            # Not wait_for: until Python 3.12 it may swallow the cancellation that ends this loop.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(third):
                    await progress.changed.wait()
                await asyncio.sleep(min(0.3, third))  # several lines of progress make one write
            progress.changed.clear()
            try:
                kept = await self._engine.renew(held, progress=progress.share, message=progress.message)
            except ClaveError:
                if time.monotonic() - alive > self._engine.lease_s:
                    raise LeaseLost from None
                await asyncio.sleep(third / 4)
                continue
            if not kept:
                raise LeaseLost
            alive = time.monotonic()

    async def _commit(self, held: Held, outcome: Outcome) -> bool:
        match outcome:
            case StepResult():
                return await self._engine.succeed(held, outcome)
            case StepWaits():
                return await self._engine.wait(held, outcome)
            case StepRefused():
                return await self._engine.refuse(held, outcome)


def _facts(row: Row[tuple[object, ...]]) -> RunFacts:
    return RunFacts(
        id=row.id,
        pipeline=row.pipeline,
        pipeline_version=row.pipeline_version,
        spec=PipelineSpec.model_validate(row.spec),
        trigger=row.trigger,
        reason=row.reason,
        requested_by=row.requested_by,
        evaluation_after=row.evaluation_after,
        roll_out=row.roll_out,
        retraining_decision_id=row.retraining_decision_id,
        created_at=row.created_at,
    )
