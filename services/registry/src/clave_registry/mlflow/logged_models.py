"""Operations on logged models."""

from uuid import uuid4

from clave_common.access import Caller
from clave_common.database import Transaction
from clave_common.errors import InvalidArgument, NotFound
from sqlalchemy import RowMapping

from clave_registry.domain.filters import Kind, Order, parse_filter, parse_order
from clave_registry.mlflow import messages
from clave_registry.mlflow.context import Context, audited, page_size
from clave_registry.mlflow.experiments import active_experiment
from clave_registry.mlflow.grammars import LOGGED_MODELS
from clave_registry.mlflow.messages import Message
from clave_registry.mlflow.values import (
    PARAM_CHARACTERS_MAX,
    RUN_TAG_CHARACTERS_MAX,
    Fields,
    as_integer,
    invalid,
    key_values,
)
from clave_registry.services.governance import tenant_of
from clave_registry.storage.mlflow import logged_models as rows
from clave_registry.storage.mlflow.search import Asked

PENDING = "LOGGED_MODEL_PENDING"
STATUSES = {
    "0": "LOGGED_MODEL_STATUS_UNSPECIFIED",
    "1": PENDING,
    "2": "LOGGED_MODEL_READY",
    "3": "LOGGED_MODEL_UPLOAD_FAILED",
}
PAGE_DEFAULT = 50
PAGE_MAX = 1_000
_FORBIDDEN = frozenset("/:.%\"'")


class LoggedModels:
    """Create, read, change and search logged models."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, caller: Caller, fields: Fields) -> Message:
        """Create a logged model, to be filled with artifacts and then set READY."""
        name, model_id, at = _checked_name(fields.text("name", "model")), f"m-{uuid4().hex}", self._context.now_ms()
        params = key_values(fields.items("params"), what="param", length_max=PARAM_CHARACTERS_MAX, cut=True)
        tags = key_values(fields.items("tags"), what="tag", length_max=RUN_TAG_CHARACTERS_MAX, cut=True)
        async with self._context.database.transaction() as tx:
            experiment = await active_experiment(tx, caller, fields.text("experiment_id", "0"))
            row = await rows.add(
                tx,
                {
                    "model_id": model_id,
                    "tenant": tenant_of(caller),
                    "experiment_id": experiment["id"],
                    "name": name,
                    "artifact_uri": f"{experiment['artifact_location']}/models/{model_id}/artifacts",
                    "status": PENDING,
                    "model_type": fields.text("model_type", ""),
                    "source_run_id": fields.text("source_run_id", ""),
                    "creation_time": at,
                    "last_updated_time": at,
                    "lifecycle_stage": "active",
                    "tags": tags,
                    "params": params,
                },
            )
            await audited(tx, caller, "registry:run.write", f"logged-models/{model_id}", name=name)
        return {"model": messages.logged_model(row)}

    async def get(self, caller: Caller, fields: Fields) -> Message:
        """Describe a logged model."""
        async with self._context.database.transaction() as tx:
            row = await logged_model_of(tx, caller, fields.text("model_id"))
            return {"model": (await _complete(tx, [row]))[0]}

    async def finalize(self, caller: Caller, fields: Fields) -> Message:
        """Set a logged model's status."""
        status = fields.text("status")
        status = STATUSES.get(status, status)
        if status not in STATUSES.values():
            raise invalid("status", status)
        async with self._context.database.transaction() as tx:
            row = await logged_model_of(tx, caller, fields.text("model_id"), lock=True)
            row = await rows.change(tx, row["model_id"], status=status, last_updated_time=self._context.now_ms())
            await audited(tx, caller, "registry:run.write", f"logged-models/{row['model_id']}", status=status)
            return {"model": (await _complete(tx, [row]))[0]}

    async def delete(self, caller: Caller, fields: Fields) -> Message:
        """Delete a logged model."""
        async with self._context.database.transaction() as tx:
            row = await logged_model_of(tx, caller, fields.text("model_id"), lock=True)
            at = self._context.now_ms()
            await rows.change(tx, row["model_id"], lifecycle_stage="deleted", last_updated_time=at)
            await audited(tx, caller, "registry:run.write", f"logged-models/{row['model_id']}", lifecycle="deleted")
        return {}

    async def set_tags(self, caller: Caller, fields: Fields) -> Message:
        """Set tags."""
        tags = key_values(fields.items("tags"), what="tag", length_max=RUN_TAG_CHARACTERS_MAX, cut=True)
        async with self._context.database.transaction() as tx:
            row = await logged_model_of(tx, caller, fields.text("model_id"), lock=True)
            at = self._context.now_ms()
            await rows.change(tx, row["model_id"], tags={**row["tags"], **tags}, last_updated_time=at)
        return {}

    async def delete_tag(self, caller: Caller, fields: Fields) -> Message:
        """Remove a tag."""
        key = fields.text("tag_key")
        async with self._context.database.transaction() as tx:
            row = await logged_model_of(tx, caller, fields.text("model_id"), lock=True)
            if key not in row["tags"]:
                raise NotFound(f"No tag with key {key} for model with ID {row['model_id']}.", code="tag_not_found")
            left = {name: value for name, value in row["tags"].items() if name != key}
            await rows.change(tx, row["model_id"], tags=left, last_updated_time=self._context.now_ms())
        return {}

    async def log_params(self, caller: Caller, fields: Fields) -> Message:
        """Add params."""
        params = key_values(fields.items("params"), what="param", length_max=PARAM_CHARACTERS_MAX, cut=True)
        async with self._context.database.transaction() as tx:
            row = await logged_model_of(tx, caller, fields.text("model_id"), lock=True)
            await rows.change(tx, row["model_id"], params={**row["params"], **params})
        return {}

    async def search(self, caller: Caller, fields: Fields) -> Message:
        """Search logged models of some experiments."""
        size = page_size(fields.integer("max_results", PAGE_DEFAULT), most=PAGE_MAX)
        source, datasets = fields.text("filter", ""), _datasets(fields)
        numbers = [as_integer("experiment_ids", number) for number in fields.texts("experiment_ids")]
        orders = _orders(fields)
        asked = Asked(
            tenant=tenant_of(caller),
            conditions=parse_filter(source, LOGGED_MODELS),
            orders=orders,
            size=size,
            token=fields.optional("page_token"),
            query=f"logged:{tenant_of(caller)}:{numbers}:{source}:{orders}:{datasets}",
        )
        async with self._context.database.transaction() as tx:
            found, following = await rows.search(tx, asked, experiment_ids=numbers, datasets=datasets)
            answer: Message = {"models": await _complete(tx, found)}
        return {**answer, "next_page_token": following} if following else answer


def _datasets(fields: Fields) -> list[tuple[str, str]]:
    return [(d.text("dataset_name"), d.text("dataset_digest", "")) for d in fields.items("datasets")]


def _orders(fields: Fields) -> list[Order]:
    orders: list[Order] = []
    for entry in fields.items("order_by"):
        name = entry.text("field_name")
        descending = entry.raw("ascending") is False
        if name.startswith("metrics."):
            orders.append(Order(Kind.METRIC, name.removeprefix("metrics.").strip('`"'), descending))
        else:
            found = parse_order([name], LOGGED_MODELS)[0]
            orders.append(Order(found.kind, found.key, descending))
    return orders


async def logged_model_of(tx: Transaction, caller: Caller, model_id: str, *, lock: bool = False) -> RowMapping:
    """Find a logged model of the caller's tenant; raise NotFound otherwise."""
    row = await rows.find(tx, tenant_of(caller), model_id, lock=lock)
    if row is None:
        raise NotFound(f"Logged model with ID '{model_id[:80]}' not found.", code="logged_model_not_found")
    return row


async def _complete(tx: Transaction, found: list[RowMapping]) -> list[Message]:
    ids = [row["model_id"] for row in found]
    metrics = await rows.metrics_of(tx, ids)
    registrations = await rows.registrations_of(tx, ids)
    return [
        messages.logged_model(
            row,
            metrics=metrics.get(row["model_id"], ()),
            registrations=registrations.get(row["model_id"], ()),
        )
        for row in found
    ]


def _checked_name(name: str) -> str:
    if not name.strip() or len(name) > 500 or any(character in _FORBIDDEN for character in name):  # noqa: PLR2004 - as experiments
        raise InvalidArgument(
            f"Invalid model name ('{name[:100]}') provided. Model name must be a non-empty string and cannot contain "
            "the following characters: ('/', ':', '.', '%', '\"', \"'\").",
            field="name",
        )
    return name
