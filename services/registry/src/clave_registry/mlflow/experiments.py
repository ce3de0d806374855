"""Operations on experiments."""

from typing import Any
from urllib.parse import urlsplit

from clave_common.access import Caller
from clave_common.database import Transaction
from clave_common.errors import AlreadyExists, InvalidArgument, NotFound

from clave_registry.domain.filters import parse_filter, parse_order
from clave_registry.mlflow import messages
from clave_registry.mlflow.context import SCHEME, Context, audited, lifecycles, page_size
from clave_registry.mlflow.grammars import EXPERIMENTS
from clave_registry.mlflow.messages import Message
from clave_registry.mlflow.values import EXPERIMENT_TAG_CHARACTERS_MAX, Fields, as_integer, checked_key, key_values
from clave_registry.services.governance import tenant_of
from clave_registry.storage.mlflow import experiments as rows
from clave_registry.storage.mlflow.search import Asked

NAME_CHARACTERS_MAX = 500
LOCATION_CHARACTERS_MAX = 2_048
PAGE_MAX = 50_000
PAGE_DEFAULT = 1_000


class Experiments:
    """Create, find, change and search experiments."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, caller: Caller, fields: Fields) -> Message:
        """Create an experiment."""
        name, at, tenant = _checked_name(fields.text("name")), self._context.now_ms(), tenant_of(caller)
        location = _checked_location(fields.text("artifact_location", ""))
        tags = key_values(fields.items("tags"), what="tag", length_max=EXPERIMENT_TAG_CHARACTERS_MAX)
        async with self._context.database.transaction() as tx:
            found = await rows.add(
                tx,
                {
                    "tenant": tenant,
                    "name": name,
                    "artifact_location": location,
                    "lifecycle_stage": "active",
                    "creation_time": at,
                    "last_update_time": at,
                    "tags": tags,
                },
            )
            if found is None:
                raise AlreadyExists(f"Experiment '{name}' already exists.", experiment=name)
            if not location:
                await rows.change(tx, found, artifact_location=f"{SCHEME}{found}")
            await audited(tx, caller, "registry:experiment.write", f"experiments/{found}", name=name)
        return {"experiment_id": str(found)}

    async def get(self, caller: Caller, fields: Fields) -> Message:
        """Describe an experiment by its id."""
        async with self._context.database.transaction() as tx:
            return {"experiment": messages.experiment(await experiment_of(tx, caller, fields.text("experiment_id")))}

    async def get_by_name(self, caller: Caller, fields: Fields) -> Message:
        """Describe an experiment by its name; deleted ones too."""
        name = fields.text("experiment_name")
        async with self._context.database.transaction() as tx:
            found = await rows.find(tx, tenant_of(caller), name=name)
        if found is None:
            raise NotFound(f"Could not find experiment with name '{name}'.", code="experiment_not_found")
        return {"experiment": messages.experiment(found)}

    async def search(self, caller: Caller, fields: Fields) -> Message:
        """Search experiments."""
        size = page_size(fields.integer("max_results", PAGE_DEFAULT), most=PAGE_MAX)
        source, order = fields.text("filter", ""), fields.texts("order_by")
        stages = lifecycles(fields.text("view_type", "ACTIVE_ONLY"))
        asked = Asked(
            tenant=tenant_of(caller),
            conditions=parse_filter(source, EXPERIMENTS),
            orders=parse_order(order, EXPERIMENTS),
            size=size,
            token=fields.optional("page_token"),
            query=f"experiments:{tenant_of(caller)}:{source}:{order}:{stages}",
        )
        async with self._context.database.transaction() as tx:
            found, following = await rows.search(tx, asked, stages=stages)
        answer: Message = {"experiments": [messages.experiment(row) for row in found]}
        return {**answer, "next_page_token": following} if following else answer

    async def update(self, caller: Caller, fields: Fields) -> Message:
        """Rename an experiment."""
        name = fields.optional("new_name")
        async with self._context.database.transaction() as tx:
            found = await active_experiment(tx, caller, fields.text("experiment_id"))
            if name is not None:
                other = await rows.find(tx, tenant_of(caller), name=_checked_name(name))
                if other is not None and other["id"] != found["id"]:
                    raise AlreadyExists(f"Experiment '{name}' already exists.", experiment=name)
                await rows.change(tx, found["id"], name=name, last_update_time=self._context.now_ms())
                await audited(tx, caller, "registry:experiment.write", f"experiments/{found['id']}", name=name)
        return {}

    async def delete(self, caller: Caller, fields: Fields) -> Message:
        """Delete an experiment and its runs with it; both can be restored."""
        return await self._move(caller, fields, "active", "deleted")

    async def restore(self, caller: Caller, fields: Fields) -> Message:
        """Restore a deleted experiment and its runs."""
        return await self._move(caller, fields, "deleted", "active")

    async def _move(self, caller: Caller, fields: Fields, before: str, after: str) -> Message:
        async with self._context.database.transaction() as tx:
            found = await experiment_of(tx, caller, fields.text("experiment_id"))
            if found["lifecycle_stage"] != before:
                raise NotFound(
                    f"Could not find {before} experiment with ID {found['id']}.", code="experiment_not_found"
                )
            await rows.set_lifecycle(tx, found["id"], after, at=self._context.now_ms())
            await audited(tx, caller, "registry:experiment.write", f"experiments/{found['id']}", lifecycle=after)
        return {}

    async def set_tag(self, caller: Caller, fields: Fields) -> Message:
        """Set a tag."""
        key, value = checked_key(fields.text("key"), what="tag"), fields.text("value", "")
        if len(value) > EXPERIMENT_TAG_CHARACTERS_MAX:
            raise InvalidArgument(f"A tag value has at most {EXPERIMENT_TAG_CHARACTERS_MAX} characters.", field=key)
        async with self._context.database.transaction() as tx:
            found = await active_experiment(tx, caller, fields.text("experiment_id"))
            await rows.put_tag(tx, found["id"], key, value, at=self._context.now_ms())
        return {}

    async def delete_tag(self, caller: Caller, fields: Fields) -> Message:
        """Remove a tag."""
        key = fields.text("key")
        async with self._context.database.transaction() as tx:
            found = await active_experiment(tx, caller, fields.text("experiment_id"))
            if key not in found["tags"]:
                raise NotFound(f"No tag with name: {key} in experiment {found['id']}.", code="tag_not_found")
            await rows.drop_tag(tx, found["id"], key, at=self._context.now_ms())
        return {}


async def experiment_of(tx: Transaction, caller: Caller, experiment_id: str) -> dict[str, Any]:
    """Find an experiment of the caller's tenant; raise NotFound otherwise."""
    if not experiment_id.isascii() or not experiment_id.isdecimal():
        raise NotFound(f"No Experiment with id={experiment_id[:50]} exists.", code="experiment_not_found")
    number = as_integer("experiment_id", experiment_id)
    found = await rows.find(tx, tenant_of(caller), experiment_id=number)
    if found is None:
        raise NotFound(f"No Experiment with id={number} exists.", code="experiment_not_found")
    return found


async def active_experiment(tx: Transaction, caller: Caller, experiment_id: str) -> dict[str, Any]:
    """Find an experiment that may be written to.

    Raises:
        InvalidArgument: It is deleted.
    """
    found = await experiment_of(tx, caller, experiment_id)
    if found["lifecycle_stage"] != "active":
        raise InvalidArgument(
            f"The experiment {found['id']} must be in the 'active' state. Current state is deleted.",
            field="experiment_id",
        )
    return found


def _checked_name(name: str) -> str:
    if not name.strip() or len(name) > NAME_CHARACTERS_MAX:
        raise InvalidArgument(f"An experiment's name has 1 to {NAME_CHARACTERS_MAX} characters.", field="name")
    return name


def _checked_location(location: str) -> str:
    if not location:
        return ""
    try:
        parts = urlsplit(location)
    except ValueError as error:
        raise InvalidArgument("artifact_location is no URI.", field="artifact_location") from error
    odd = parts.fragment or parts.query or "#" in location or parts.scheme == "runs" or ".." in location
    if odd or len(location) > LOCATION_CHARACTERS_MAX or any(ord(c) < 32 for c in location):  # noqa: PLR2004 - controls
        raise InvalidArgument(
            f"artifact_location has at most {LOCATION_CHARACTERS_MAX} characters, no fragment, no parameters and no "
            "'..'.",
            field="artifact_location",
        )
    return location
