"""The streams the monitor reads: predictions from inference, run events from the trainer."""

from collections.abc import Sequence

from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.logs import get_logger
from clave_common.streams import Entry
from clave_contracts.events import Event, PredictionRecord, RunFinished, RunStarted
from clave_contracts.prediction_batches import MalformedBatch, documents
from pydantic import TypeAdapter, ValidationError

from clave_monitor.runtime.metrics import Metrics
from clave_monitor.services.ingestion import Ingestion
from clave_monitor.services.wakeup import WakeUp
from clave_monitor.storage import decisions

_log = get_logger(__name__)
_RECORDS = TypeAdapter(list[PredictionRecord])


class PredictionConsumer:
    """Stores what inference logged; an entry that is no prediction is counted, logged and passed over."""

    def __init__(self, ingestion: Ingestion, metrics: Metrics, wake_up: WakeUp) -> None:
        self._ingestion = ingestion
        self._metrics = metrics
        self._wake_up = wake_up

    async def handle(self, entries: Sequence[Entry]) -> None:
        """Store the entries' records in one transaction."""
        records: list[PredictionRecord] = []
        for entry in entries:
            try:
                found = _RECORDS.validate_python(documents(entry.body))
            except (MalformedBatch, ValidationError) as error:
                self._metrics.batch_malformed()
                faults = error.error_count() if isinstance(error, ValidationError) else 1
                _log.warning("prediction_batch_malformed", entry=entry.id, errors=faults)
                continue
            sound = [record for record in found if _is_sound(record)]
            if len(sound) < len(found):
                self._metrics.batch_malformed()
                _log.warning("prediction_records_malformed", entry=entry.id, records=len(found) - len(sound))
            records += sound
        if records and await self._ingestion.take_predictions(records):
            self._wake_up.ring()


def _is_sound(record: PredictionRecord) -> bool:
    """Say whether every row has a value for every column."""
    return all(len(values) == len(record.columns) for values in record.values)


class RunConsumer:
    """Notes how far the retrainings came that the monitor asked for."""

    def __init__(self, database: Database, clock: Clock, wake_up: WakeUp) -> None:
        self._database = database
        self._clock = clock
        self._wake_up = wake_up

    async def handle(self, entries: Sequence[Entry]) -> None:
        """Write run ids and ends to their decisions; doing it twice changes nothing."""
        for entry in entries:
            try:
                event = Event.model_validate_json(entry.body)
            except ValidationError:
                _log.warning("trainer_event_malformed", entry=entry.id)
                continue
            if event.type in ("RunStarted", "RunFinished"):
                await self._note(event)

    async def _note(self, event: Event) -> None:
        try:
            kind = RunFinished if event.type == "RunFinished" else RunStarted
            run = kind.model_validate(event.data)
        except ValidationError:
            _log.warning("trainer_event_malformed", entry=event.id)
            return
        if run.retraining_decision_id is None:
            return
        values: dict[str, object] = {"run_id": run.run_id}
        if isinstance(run, RunFinished):
            values |= {"run_status": run.status, "ended_at": event.time}
        async with self._database.transaction() as tx:
            if await decisions.find(tx, run.retraining_decision_id) is not None:
                await decisions.change(tx, run.retraining_decision_id, **values)
        self._wake_up.ring()
