"""Taking in: prediction records from the stream, outcomes from applications.

Both are idempotent by (prediction id, row): a record or an outcome that comes twice changes nothing, whatever was
killed in between. An outcome may come before its prediction; it is kept and joined later.
"""

import base64
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from clave_common.clock import Clock
from clave_common.database import Database
from clave_contracts.events import PredictionRecord
from clave_contracts.monitor import FeedbackItem, FeedbackResult

from clave_monitor.runtime.metrics import Metrics
from clave_monitor.storage import monitors, predictions
from clave_monitor.storage.records import Key


class Ingestion:
    """Stores predictions and outcomes, and joins them."""

    def __init__(self, database: Database, clock: Clock, metrics: Metrics) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics

    async def take_predictions(self, records: Sequence[PredictionRecord]) -> int:
        """Store prediction records.

        Returns:
            Rows that were new.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await predictions.serialise_joins(tx)
            numbers = {names: await predictions.column_set(tx, names) for names in {tuple(r.columns) for r in records}}
            rows = [row for r in records for row in _rows(r, column_set=numbers[tuple(r.columns)], now=now)]
            new = await predictions.add(tx, rows)
            early = await predictions.pending_outcomes(tx, sorted(new))
            await predictions.join(tx, early, at=self._clock.now())
            await monitors.ensure(tx, {_key(record) for record in records}, at=now)
            for record in _newest_live(records):
                await monitors.note_live(tx, _key(record), at=record.at)
        self._metrics.predictions_taken(records, new=len(new), known=len(rows) - len(new))
        return len(new)

    async def take_feedback(self, items: Sequence[FeedbackItem], *, principal: str) -> FeedbackResult:
        """Store outcomes and join those whose predictions are known.

        Returns:
            What became of each: joined, pending, duplicate, or refused with its index and the reason.
        """
        result = FeedbackResult()
        async with self._database.transaction() as tx:
            await predictions.serialise_joins(tx)
            now = self._clock.now()
            ids = sorted({item.prediction_id for item in items})
            stored = await predictions.known_rows(tx, ids)
            outcomes = await predictions.known_outcomes(tx, ids)
            new: list[dict[str, Any]] = []
            for index, item in enumerate(items):
                refusal = _refusal(item, stored=stored, outcomes=outcomes)
                known = (item.prediction_id, item.row) in outcomes
                if refusal is not None:
                    result.refused.append({"index": index, "prediction_id": item.prediction_id, **refusal})
                elif known:
                    result.duplicates += 1
                else:
                    outcomes[item.prediction_id, item.row] = item.outcome
                    new.append(_outcome(item, principal=principal, now=now))
            await predictions.add_outcomes(tx, new)
            met = [o for o in new if o["row"] in stored.get(o["prediction_id"], {})]
            await predictions.join(tx, met, at=now)
        result.joined, result.pending = len(met), len(new) - len(met)
        self._metrics.feedback_taken(result)
        return result


def _key(record: PredictionRecord) -> Key:
    return Key(record.endpoint, record.model, record.model_version)


def _newest_live(records: Sequence[PredictionRecord]) -> list[PredictionRecord]:
    newest: dict[str, PredictionRecord] = {}
    for record in records:
        known = newest.get(record.endpoint)
        if record.arm == "live" and (known is None or known.at <= record.at):
            newest[record.endpoint] = record
    return list(newest.values())


def _rows(record: PredictionRecord, *, column_set: int, now: datetime) -> list[dict[str, Any]]:
    count = max(len(record.values), len(record.score), 1)
    return [_row(record, i) | {"column_set": column_set, "received_at": now} for i in range(count)]


def _row(record: PredictionRecord, index: int) -> dict[str, Any]:
    values = record.values[index] if index < len(record.values) else [None] * len(record.columns)
    features = np.array(values, dtype="<f4")  # None becomes NaN
    entities = record.entities
    return {
        "prediction_id": record.id,
        "row": index,
        "endpoint": record.endpoint,
        "model": record.model,
        "model_version": record.model_version,
        "arm": record.arm,
        "tenant": record.tenant,
        "principal": record.principal,
        "protocol": record.protocol,
        "predicted_at": record.at,
        "features": base64.b64encode(features.tobytes()).decode(),
        "entities": None if entities is None else _entity(entities, index),
        "score": record.score[index] if index < len(record.score) else None,
        "label": record.label[index] if record.label is not None and index < len(record.label) else None,
        "latency_ms": record.latency_ms if index == 0 else None,
        "error": record.error,
    }


def _entity(entities: dict[str, list[Any]], index: int) -> dict[str, Any]:
    return {name: keys[index] for name, keys in entities.items() if index < len(keys)}


def _refusal(
    item: FeedbackItem, *, stored: dict[str, dict[int, Key]], outcomes: dict[tuple[str, int], float]
) -> dict[str, str] | None:
    if not math.isfinite(item.outcome):
        return {"code": "outcome_not_finite", "detail": "An outcome is a finite number, 0 or 1 for a class."}
    rows = stored.get(item.prediction_id)
    if rows is not None and item.row not in rows:
        return {"code": "no_such_row", "detail": f"The prediction has {len(rows)} rows; the first is row 0."}
    known = outcomes.get((item.prediction_id, item.row))
    if known is not None and known != item.outcome:
        detail = f"The outcome {known:g} is stored already; outcomes do not change."
        return {"code": "outcome_conflict", "detail": detail}
    return None


def _outcome(item: FeedbackItem, *, principal: str, now: datetime) -> dict[str, Any]:
    return {
        "prediction_id": item.prediction_id,
        "row": item.row,
        "outcome": item.outcome,
        "attributes": item.attributes or None,
        "principal": principal,
        "occurred_at": item.occurred_at,
        "received_at": now,
    }
