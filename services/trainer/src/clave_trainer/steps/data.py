"""The steps that get data: collect feedback, make the training set, look at it."""

import io
from datetime import datetime
from typing import Any

import orjson
from clave_contracts.features import TrainingSetRequest
from clave_contracts.monitor import LabelledRow
from clave_contracts.problems import ServiceProblem

from clave_trainer.runtime.artifacts import store_stream
from clave_trainer.services.engine import StepRefused, StepResult
from clave_trainer.steps.context import Outcome, StepContext

PAGE_ROWS = 1000
PAGES_MAX = 1000
NOT_FOUND = 404


async def collect_feedback(context: StepContext) -> Outcome:
    """Bring outcomes that met their predictions into the label view; the cursor moves only with success.

    A page that was ingested before a crash is ingested again under the same idempotency key, which changes nothing.
    """
    spec = context.run.spec
    cursor = context.earlier.get("labelled_after")
    after = datetime.fromisoformat(cursor) if cursor else None
    token, collected, accepted, latest = None, 0, 0, after
    for page in range(PAGES_MAX):
        try:
            found = await context.peers.monitor.labelled(
                spec.endpoint, after=after, page_token=token, page_size=PAGE_ROWS
            )
        except ServiceProblem as problem:
            if problem.status != NOT_FOUND:
                raise
            break  # nothing has been predicted yet: the first run of an endpoint
        rows = [row for row in found.rows if row.entities]
        if rows:
            report = await context.peers.features.ingest(
                spec.label_view,
                label_rows(rows, label=spec.label),
                media_type="application/json",
                idempotency_key=f"{context.run.id}-feedback-{page}",
            )
            accepted += report.accepted
            collected += len(rows)
            latest = max([row.labelled_at for row in rows] + ([latest] if latest else []))
            await context.report(0.5, f"{collected} outcomes collected")
        token = found.next_page_token
        if not token:
            break
    output = {
        "labelled_after": latest.isoformat() if latest else None,
        "facts": {"collected": collected, "accepted": accepted},
    }
    return StepResult(output, f"{collected} outcomes collected, {accepted} accepted")


def label_rows(rows: list[LabelledRow], *, label: str) -> bytes:
    """Render labelled predictions as rows of the label view: keys, time of the prediction, outcome."""
    buffer = io.BytesIO()
    buffer.write(
        orjson.dumps(
            [{**(row.entities or {}), "event_ts": row.predicted_at.isoformat(), label: row.outcome} for row in rows]
        )
    )
    return buffer.getvalue()


async def training_set(context: StepContext) -> Outcome:
    """Have the features service make a snapshot, and keep a verified copy."""
    run, spec = context.run, context.run.spec
    made = await context.peers.features.create_training_set(
        TrainingSetRequest(
            name=spec.name,
            feature_service=spec.feature_service,
            label_view=spec.label_view,
            label=spec.label,
            extra=spec.protected,
        ),
        on_behalf_of=run.on_behalf_of,
    )
    await context.report(0.6, f"{made.rows} rows, fetching")
    pointer = await store_stream(context.blobs, context.peers.features.training_set_data(made.id), made.digest)
    described = made.model_dump(mode="json")
    output = {"artifacts": {"training_set.parquet": pointer}, "facts": described}
    return StepResult(output, f"{made.rows} rows as of {made.as_of:%Y-%m-%d %H:%M:%S} UTC")


async def validate(context: StepContext) -> Outcome:
    """Refuse a training set that no model should learn from."""
    result, _ = await context.compute(data_request(context), files=["training_set.parquet"], keep=[])
    facts = result["facts"]
    if result.get("refused"):
        reasons = [f"training data: {fault}" for fault in result["refused"]]
        return StepRefused(reasons, output={"facts": facts})
    message = f"{facts['rows']} rows of {facts['entities']} entities, {facts['positive_rate']:.1%} positive"
    return StepResult({"facts": facts}, message)


def data_request(context: StepContext) -> dict[str, Any]:
    """Say how a computation reads and deals the training set."""
    spec = context.run.spec
    return {
        "columns": context.facts("training_set")["columns"],
        "split": spec.split,
        "salt": spec.model,
        "params": spec.params,
    }
