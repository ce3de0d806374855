"""Operations on runs: create, read, change, search, and what is logged to them."""

import random
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from clave_common.access import Caller
from clave_common.database import Database, Transaction
from clave_common.errors import InvalidArgument, NotFound
from sqlalchemy import RowMapping

from clave_registry.domain.filters import parse_filter, parse_order
from clave_registry.mlflow import messages
from clave_registry.mlflow.context import Context, audited, lifecycles, page_size
from clave_registry.mlflow.experiments import active_experiment
from clave_registry.mlflow.grammars import RUNS
from clave_registry.mlflow.messages import Message
from clave_registry.mlflow.values import (
    RUN_TAG_CHARACTERS_MAX,
    Fields,
    as_integer,
    checked_key,
    invalid,
    key_values,
)
from clave_registry.services.governance import tenant_of
from clave_registry.storage.mlflow import runs as rows
from clave_registry.storage.mlflow.search import Asked

STATUSES = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}
NAME_TAG = "mlflow.runName"
USER_TAG = "mlflow.user"
PAGE_MAX = 50_000
PAGE_DEFAULT = 1_000
EXPERIMENTS_MAX = 100_000
_ADJECTIVES = ("bold", "calm", "deft", "fair", "keen", "mild", "neat", "sage", "spry", "wise")
_BIRDS = ("crane", "finch", "heron", "ibis", "kite", "lark", "owl", "robin", "swift", "wren")


class Runs:
    """Create, read, change and search runs."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, caller: Caller, fields: Fields) -> Message:
        """Create a run."""
        tags = key_values(fields.items("tags"), what="tag", length_max=RUN_TAG_CHARACTERS_MAX, cut=True)
        name = _run_name(fields.optional("run_name"), tags)
        run_id = uuid4().hex
        async with self._context.database.transaction() as tx:
            experiment = await active_experiment(tx, caller, fields.text("experiment_id", "0"))
            row = await rows.add(
                tx,
                {
                    "run_id": run_id,
                    "tenant": tenant_of(caller),
                    "experiment_id": experiment["id"],
                    "run_name": name,
                    "user_id": fields.text("user_id", caller.acting_for),
                    "status": "RUNNING",
                    "start_time": fields.integer("start_time", self._context.now_ms()),
                    "lifecycle_stage": "active",
                    "artifact_uri": f"{experiment['artifact_location']}/{run_id}/artifacts",
                    "tags": {**tags, NAME_TAG: name},
                },
            )
            await audited(tx, caller, "registry:run.write", f"runs/{run_id}", name=name)
        return {"run": messages.run(row, metrics=())}

    async def get(self, caller: Caller, fields: Fields) -> Message:
        """Describe a run."""
        run_id = _asked_run(fields)
        row = await rows.shown(self._context.database, tenant_of(caller), run_id)
        if row is None:
            raise _no_run(run_id)
        return {"run": (await _complete(self._context.database, [row]))[0]}

    async def update(self, caller: Caller, fields: Fields) -> Message:
        """Change a run's status, end or name."""
        values: dict[str, Any] = {}
        async with self._context.database.transaction() as tx:
            row = await active_run(tx, caller, fields)
            if fields.raw("status") is not None:
                values["status"] = _status(fields.text("status"))
            if fields.raw("end_time") is not None:
                values["end_time"] = fields.integer("end_time") or None
            name = fields.optional("run_name")
            if name:
                values |= {"run_name": name, "tags": {**row["tags"], NAME_TAG: name}}
            row = await rows.change(tx, row["run_id"], **values) if values else row
            await audited(tx, caller, "registry:run.write", f"runs/{row['run_id']}", fields=sorted(values))
        return {"run_info": messages.run_info(row)}

    async def delete(self, caller: Caller, fields: Fields) -> Message:
        """Delete a run; it can be restored."""
        return await self._move(caller, fields, "deleted")

    async def restore(self, caller: Caller, fields: Fields) -> Message:
        """Restore a deleted run."""
        return await self._move(caller, fields, "active")

    async def _move(self, caller: Caller, fields: Fields, stage: str) -> Message:
        async with self._context.database.transaction() as tx:
            row = await run_of(tx, caller, fields, lock=True)
            await rows.change(tx, row["run_id"], lifecycle_stage=stage)
            await audited(tx, caller, "registry:run.write", f"runs/{row['run_id']}", lifecycle=stage)
        return {}

    async def search(self, caller: Caller, fields: Fields) -> Message:
        """Search runs of some experiments."""
        size = page_size(fields.integer("max_results", PAGE_DEFAULT), most=PAGE_MAX)
        source, order = fields.text("filter", ""), fields.texts("order_by")
        stages = lifecycles(fields.text("run_view_type", "ACTIVE_ONLY"))
        numbers = [as_integer("experiment_ids", number) for number in fields.texts("experiment_ids")]
        if len(numbers) > EXPERIMENTS_MAX:
            raise invalid("experiment_ids", len(numbers))
        asked = Asked(
            tenant=tenant_of(caller),
            conditions=parse_filter(source, RUNS),
            orders=parse_order(order, RUNS),
            size=size,
            token=fields.optional("page_token"),
            query=f"runs:{tenant_of(caller)}:{numbers}:{source}:{order}:{stages}",
        )
        async with self._context.database.transaction() as tx:
            found, following = await rows.search(tx, asked, experiment_ids=numbers, stages=stages)
        answer: Message = {"runs": await _complete(self._context.database, found)}
        return {**answer, "next_page_token": following} if following else answer

    async def set_tag(self, caller: Caller, fields: Fields) -> Message:
        """Set a tag; the tag of the run's name renames it."""
        key = checked_key(fields.text("key"), what="tag")
        value = fields.text("value", "")[:RUN_TAG_CHARACTERS_MAX]
        async with self._context.database.transaction() as tx:
            row = await active_run(tx, caller, fields)
            await rows.merge_tags(tx, row["run_id"], {key: value})
            if key == NAME_TAG:
                await rows.change(tx, row["run_id"], run_name=value)
        return {}

    async def delete_tag(self, caller: Caller, fields: Fields) -> Message:
        """Remove a tag."""
        key = fields.text("key")
        async with self._context.database.transaction() as tx:
            row = await active_run(tx, caller, fields)
            if key not in row["tags"]:
                raise NotFound(f"No tag with name: {key} in run with id {row['run_id']}.", code="tag_not_found")
            await rows.change(tx, row["run_id"], tags={k: v for k, v in row["tags"].items() if k != key})
        return {}

    async def log_inputs(self, caller: Caller, fields: Fields) -> Message:
        """Record the datasets and models that a run took."""
        datasets = [_dataset(entry) for entry in fields.items("datasets")]
        models = [{"model_id": m.text("model_id"), "role": "input", "step": 0} for m in fields.items("models")]
        async with self._context.database.transaction() as tx:
            row = await active_run(tx, caller, fields)
            await rows.add_datasets(tx, row["run_id"], datasets)
            await rows.add_models(tx, row["run_id"], models)
        return {}

    async def outputs(self, caller: Caller, fields: Fields) -> Message:
        """Record the models that a run gave."""
        models = [
            {"model_id": m.text("model_id"), "role": "output", "step": m.integer("step", 0)}
            for m in fields.items("models")
        ]
        async with self._context.database.transaction() as tx:
            row = await active_run(tx, caller, fields)
            await rows.add_models(tx, row["run_id"], models)
        return {}


async def run_of(tx: Transaction, caller: Caller, fields: Fields, *, lock: bool = False) -> RowMapping:
    """Find the run that a request names; raise NotFound otherwise."""
    run_id = _asked_run(fields)
    row = await rows.find(tx, tenant_of(caller), run_id, lock=lock)
    if row is None:
        raise _no_run(run_id)
    return row


def _asked_run(fields: Fields) -> str:
    return fields.optional("run_id") or fields.text("run_uuid", "") or fields.text("run_id")


def _no_run(run_id: str) -> NotFound:
    return NotFound(f"Run with id={run_id[:64]} not found.", code="run_not_found")


async def active_run(tx: Transaction, caller: Caller, fields: Fields) -> RowMapping:
    """Find and hold a run that may be written to.

    Raises:
        InvalidArgument: It is deleted.
    """
    row = await run_of(tx, caller, fields, lock=True)
    if row["lifecycle_stage"] != "active":
        raise InvalidArgument(
            f"The run {row['run_id']} must be in the 'active' state. Current state is deleted.", field="run_id"
        )
    return row


async def _complete(database: Database, found: Sequence[messages.Row]) -> list[Message]:
    of = await rows.belongings_of(database, [row["run_id"] for row in found])
    return [
        messages.run(
            row,
            metrics=of.metrics.get(row["run_id"], ()),
            datasets=of.datasets.get(row["run_id"], ()),
            models=of.models.get(row["run_id"], ()),
        )
        for row in found
    ]


def _run_name(name: str | None, tags: dict[str, str]) -> str:
    tagged = tags.get(NAME_TAG)
    if name and tagged and name != tagged:
        raise InvalidArgument(
            f"Both 'run_name' argument and '{NAME_TAG}' tag are specified, but with different values "
            f"(run_name='{name[:100]}', {NAME_TAG}='{tagged[:100]}').",
            field="run_name",
        )
    generator = random.SystemRandom()
    made = f"{generator.choice(_ADJECTIVES)}-{generator.choice(_BIRDS)}-{generator.randrange(1000)}"
    return name or tagged or made


def _status(value: str) -> str:
    name = STATUSES.get(value, value)
    if name not in STATUSES.values():
        raise invalid("status", value)
    return name


def _dataset(entry: Fields) -> dict[str, Any]:
    raw = entry.raw("dataset")
    if not isinstance(raw, dict):
        raise invalid("dataset", raw)
    dataset = Fields(raw)
    return {
        "name": _bounded(dataset, "name", 500),
        "digest": _bounded(dataset, "digest", 36),
        "source_type": dataset.text("source_type"),
        "source": _bounded(dataset, "source", 65_535),
        "schema": _bounded(dataset, "schema", 1_048_575, default=""),
        "profile": _bounded(dataset, "profile", 16_777_215, default=""),
        "tags": {tag.text("key"): tag.text("value", "") for tag in entry.items("tags")},
    }


def _bounded(fields: Fields, name: str, most: int, *, default: str | None = None) -> str:
    value = fields.text(name, default)
    if len(value) > most:
        raise InvalidArgument(f"A dataset's {name} has at most {most} characters.", field=name, limit=most)
    return value
