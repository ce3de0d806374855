"""Hears the monitor's requests for a new model and starts their runs: one run per request, however often it comes."""

from collections.abc import Sequence

from clave_common.access import Access
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.errors import ClaveError
from clave_common.logs import get_logger
from clave_common.streams import Entry
from clave_contracts.events import Event, RetrainingRequested
from clave_contracts.trainer import RunCreate
from pydantic import ValidationError

from clave_trainer.services.leave import TRAINER, Triggers
from clave_trainer.services.runs import Origin, add_run
from clave_trainer.storage import runs

_log = get_logger(__name__)
_CONSUMER = "retraining"


class RetrainingConsumer:
    """Turns `RetrainingRequested` into runs."""

    def __init__(self, database: Database, clock: Clock, access: Access) -> None:
        self._database = database
        self._clock = clock
        self._triggers = Triggers(access, clock)

    async def handle(self, entries: Sequence[Entry]) -> None:
        """Start the run of each request; what cannot start one is logged and left behind."""
        for entry in entries:
            try:
                event = Event.model_validate_json(entry.body)
                if event.type != "RetrainingRequested":
                    continue
                request = RetrainingRequested.model_validate(event.data)
            except ValidationError as error:
                _log.warning("event_malformed", event_id=entry.id, faults=error.error_count())
                continue
            await self._start(event, request)

    async def _start(self, event: Event, request: RetrainingRequested) -> None:
        log = _log.bind(event_id=event.id, pipeline=request.pipeline, decision_id=request.decision_id)
        try:
            async with self._database.transaction() as tx:
                if not await tx.first_time(_CONSUMER, event.id):
                    return
                if await runs.run_of_decision(tx.session, request.decision_id) is not None:
                    return
                pipeline = await runs.pipeline(tx.session, request.pipeline)
                if pipeline is None:
                    log.warning("retraining_without_pipeline")
                    return
                if pipeline.spec.endpoint != request.endpoint:
                    log.warning("retraining_of_another_endpoint", endpoint=request.endpoint)
                    return
                if against := await self._triggers.objections(tx, pipeline, tenant=event.tenant):
                    log.warning("retraining_refused", code="permission_denied", detail=", ".join(against))
                    return
                origin = Origin("retraining_requested", "service:monitor", TRAINER, event.tenant)
                run = RunCreate(
                    reason=request.reason,
                    evaluation_after=request.evaluation_after,
                    retraining_decision_id=request.decision_id,
                )
                run_id = await add_run(tx, pipeline, run, origin, self._clock)
        except ClaveError as error:
            if error.retry_after_s is not None:
                raise  # the database is away: the entry comes again
            log.warning("retraining_refused", code=error.code, detail=error.detail)
            return
        log.info("retraining_started", run_id=run_id)
