"""Operations on registered models and their aliases, in MLflow's terms; the same rows as the registry's own API."""

from typing import Any

from clave_common.access import Caller
from clave_common.database import Transaction
from clave_common.errors import AlreadyExists, InvalidArgument, NotFound
from clave_common.ids import new_id

from clave_registry.domain.filters import parse_filter, parse_order
from clave_registry.domain.names import checked_alias
from clave_registry.mlflow.context import Context, audited, page_size
from clave_registry.mlflow.grammars import REGISTERED_MODELS
from clave_registry.mlflow.messages import Message, milliseconds, pairs
from clave_registry.mlflow.stages import checked_stages
from clave_registry.mlflow.values import (
    REGISTRY_TAG_CHARACTERS_MAX,
    Fields,
    as_integer,
    checked_key,
    checked_model_name,
    key_values,
)
from clave_registry.mlflow.version_messages import by_version, version_message
from clave_registry.services.governance import change_entry, tenant_of
from clave_registry.services.holds import require_not_held
from clave_registry.services.models import ModelInUse, alias_moved, announce_alias
from clave_registry.storage import endpoints, models
from clave_registry.storage.mlflow import registry, statements
from clave_registry.storage.mlflow.search import Asked
from clave_registry.storage.records import AliasRow, ModelRow, ShownVersion, VersionRow

LATEST = "latest"
VERSION_MAX = 2**31 - 1
PAGE_DEFAULT = 100
PAGE_MAX = 1_000
DESCRIPTION_CHARACTERS_MAX = 100_000


class RegisteredModels:
    """Create, read, change and search registered models."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, caller: Caller, fields: Fields) -> Message:
        """Create a registered model."""
        name, now = checked_model_name(fields.text("name")), self._context.clock.now()
        tags = key_values(fields.items("tags"), what="tag", length_max=REGISTRY_TAG_CHARACTERS_MAX)
        async with self._context.database.transaction() as tx:
            row = await models.add(
                tx,
                {
                    "id": new_id("mdl"),
                    "tenant": tenant_of(caller),
                    "name": name,
                    "description": _description(fields),
                    "tags": tags,
                    "created_by": caller.acting_for,
                    "created_at": now,
                    "updated_at": now,
                },
            )
            if row is None:
                raise AlreadyExists(f"Registered Model (name={name}) already exists.", model=name)
            await audited(tx, caller, "registry:model.create", f"models/{name}")
        return {"registered_model": _message(row)}

    async def get(self, caller: Caller, fields: Fields) -> Message:
        """Describe a registered model."""
        async with self._context.database.transaction() as tx:
            row = await model_of(tx, caller, fields)
            return {"registered_model": (await _complete(tx, [row]))[0]}

    async def update(self, caller: Caller, fields: Fields) -> Message:
        """Change a registered model's description."""
        async with self._context.database.transaction() as tx:
            row = await model_of(tx, caller, fields, lock=True)
            row = await models.change(tx, row.id, at=self._context.clock.now(), description=_description(fields))
            await audited(tx, caller, "registry:model.update", f"models/{row.name}", fields=["description"])
            return {"registered_model": (await _complete(tx, [row]))[0]}

    async def rename(self, caller: Caller, fields: Fields) -> Message:
        """Rename a registered model; versions, tags and aliases come along."""
        name = checked_model_name(fields.text("new_name"))
        async with self._context.database.transaction() as tx:
            row = await model_of(tx, caller, fields, lock=True)
            if await models.by_name(tx, row.tenant, name) is not None:
                raise AlreadyExists(f"Registered Model (name={name}) already exists.", model=name)
            await _require_unserved(tx, row)
            changed = await models.change(tx, row.id, at=self._context.clock.now(), name=name)
            await audited(tx, caller, "registry:model.update", f"models/{name}", renamed_from=row.name)
            return {"registered_model": (await _complete(tx, [changed]))[0]}

    async def delete(self, caller: Caller, fields: Fields) -> Message:
        """Delete a registered model with its versions; the name is free again."""
        now = self._context.clock.now()
        async with self._context.database.transaction() as tx:
            row = await model_of(tx, caller, fields, lock=True)
            await _require_unserved(tx, row)
            await require_not_held(tx, row.id, name=row.name)
            await registry.delete_versions(tx, row.id, at=now)
            await models.change(tx, row.id, at=now, deleted_at=now)
            await audited(tx, caller, "registry:model.delete", f"models/{row.name}")
        return {}

    async def search(self, caller: Caller, fields: Fields) -> Message:
        """Search registered models."""
        size = page_size(fields.integer("max_results", PAGE_DEFAULT), most=PAGE_MAX)
        source, order = fields.text("filter", ""), fields.texts("order_by")
        asked = Asked(
            tenant=tenant_of(caller),
            conditions=parse_filter(source, REGISTERED_MODELS),
            orders=parse_order(order, REGISTERED_MODELS),
            size=size,
            token=fields.optional("page_token"),
            query=f"registered:{tenant_of(caller)}:{source}:{order}",
        )
        async with self._context.database.transaction() as tx:
            rows, following = await registry.search_models(tx, asked, caller)
            answer: Message = {"registered_models": await _complete(tx, rows)}
        return {**answer, "next_page_token": following} if following else answer

    async def set_tag(self, caller: Caller, fields: Fields) -> Message:
        """Set a tag."""
        key = checked_key(fields.text("key"), what="tag")
        tags = key_values([fields], what="tag", length_max=REGISTRY_TAG_CHARACTERS_MAX)
        async with self._context.database.transaction() as tx:
            row = await model_of(tx, caller, fields, lock=True)
            await models.change(tx, row.id, at=self._context.clock.now(), tags={**row.tags, **tags})
            await audited(tx, caller, "registry:model.update", f"models/{row.name}", tag=key)
        return {}

    async def delete_tag(self, caller: Caller, fields: Fields) -> Message:
        """Remove a tag; one that is not there is no error."""
        key = fields.text("key")
        async with self._context.database.transaction() as tx:
            row = await model_of(tx, caller, fields, lock=True)
            left = {name: value for name, value in row.tags.items() if name != key}
            await models.change(tx, row.id, at=self._context.clock.now(), tags=left)
            await audited(tx, caller, "registry:model.update", f"models/{row.name}", tag=key)
        return {}

    async def latest_versions(self, caller: Caller, fields: Fields) -> Message:
        """Give the highest version of each stage asked for; of all four when none is."""
        stages = checked_stages(fields.texts("stages"))
        async with self._context.database.transaction() as tx:
            row = await model_of(tx, caller, fields)
            found = [v for v in await registry.latest(tx, [row.id]) if v.legacy_stage in stages]
            own = by_version(await models.aliases_of(tx, [row.id]))
        return {"model_versions": [version_message(row.name, v, own.get((row.id, v.version), ())) for v in found]}

    async def get_alias(self, caller: Caller, fields: Fields) -> Message:
        """Describe the version that an alias names; ``latest`` is the highest one."""
        alias, name = fields.text("alias"), fields.text("name")
        if alias.lower() == LATEST:
            found: tuple[ShownVersion | VersionRow, list[str]] | None = await self._highest(caller, fields)
        else:
            found = await statements.by_alias(self._context.database, tenant=tenant_of(caller), model=name, alias=alias)
        if found is None:
            await self._require_model(caller, fields)
            raise NotFound(f"Registered model alias {alias[:100]} not found.", code="alias_not_found")
        return {"model_version": version_message(name, *found)}

    async def _highest(self, caller: Caller, fields: Fields) -> tuple[VersionRow, list[str]] | None:
        async with self._context.database.transaction() as tx:
            row = await model_of(tx, caller, fields)
            version = await registry.highest(tx, row.id)
            aliases = by_version(await models.aliases_of(tx, [row.id]))
        return (version, aliases.get((row.id, version.version), [])) if version else None

    async def _require_model(self, caller: Caller, fields: Fields) -> None:
        async with self._context.database.transaction() as tx:
            await model_of(tx, caller, fields)

    async def set_alias(self, caller: Caller, fields: Fields) -> Message:
        """Let an alias name a version."""
        alias, number = checked_alias(fields.text("alias")), as_integer("version", fields.text("version"))
        name, tenant, by = fields.text("name"), tenant_of(caller), caller.acting_for
        path, pointed = f"models/{name}/aliases/{alias}", False
        if 1 <= number <= VERSION_MAX:
            said = (
                change_entry(caller, "registry:version.tag", path, tenant=tenant, via="mlflow", version=number),
                alias_moved(tenant, name, alias, number, by=by, reason=""),
            )
            pointed = await statements.point_alias(
                self._context.database,
                tenant=tenant,
                model=name,
                alias=alias,
                version=number,
                at=self._context.clock.now(),
                by=by,
                said=said,
            )
        if not pointed:
            await self._require_model(caller, fields)
            raise NotFound(f"Model Version (name={name}, version={number}) not found.", code="version_not_found")
        return {}

    async def delete_alias(self, caller: Caller, fields: Fields) -> Message:
        """Remove an alias; one that is not there is no error."""
        alias, now = fields.text("alias"), self._context.clock.now()
        async with self._context.database.transaction() as tx:
            row = await model_of(tx, caller, fields)
            dropped = await models.drop_alias(tx, row.id, alias, at=now, by=caller.acting_for, reason="")
            await audited(tx, caller, "registry:version.tag", f"models/{row.name}/aliases/{alias}")
            if dropped:
                await announce_alias(tx, row, alias, None, by=caller.acting_for, reason="")
        return {}


async def model_of(tx: Transaction, caller: Caller, fields: Fields, *, lock: bool = False) -> ModelRow:
    """Find the registered model that a request names; raise NotFound otherwise."""
    name = fields.text("name")
    row = await models.by_name(tx, tenant_of(caller), name, lock=lock)
    if row is None:
        raise no_model(name)
    return row


def no_model(name: str) -> NotFound:
    """Build the refusal for a registered model that is not there."""
    return NotFound(f"Registered Model with name={name[:256]} not found.", code="model_not_found")


async def _require_unserved(tx: Transaction, row: ModelRow) -> None:
    serving = [endpoint.name for endpoint in await endpoints.of_model(tx, row.id)]
    if serving:
        raise ModelInUse(f"'{row.name}' answers for {', '.join(serving)}.", endpoints=serving)


def _description(fields: Fields) -> str:
    text = fields.text("description", "")
    if len(text) > DESCRIPTION_CHARACTERS_MAX:
        raise InvalidArgument(
            f"A description has at most {DESCRIPTION_CHARACTERS_MAX} characters.", field="description"
        )
    return text


async def _complete(tx: Transaction, rows: list[ModelRow]) -> list[Message]:
    ids = [row.id for row in rows]
    latest = await registry.latest(tx, ids) if ids else []
    aliases = await models.aliases_of(tx, ids) if ids else []
    return [_message(row, latest=latest, aliases=aliases) for row in rows]


def _message(
    row: ModelRow, *, latest: list[VersionRow] | None = None, aliases: list[AliasRow] | None = None
) -> Message:
    own = [alias for alias in aliases or () if alias.model_id == row.id]
    message: dict[str, Any] = {
        "name": row.name,
        "creation_timestamp": milliseconds(row.created_at),
        "last_updated_timestamp": milliseconds(row.updated_at),
        "user_id": row.created_by,
        "description": row.description,
        "tags": pairs(row.tags),
        "aliases": [{"alias": alias.alias, "version": str(alias.version)} for alias in own],
    }
    named = by_version(own)
    versions_shown = [
        version_message(row.name, v, named.get((row.id, v.version), ())) for v in latest or () if v.model_id == row.id
    ]
    return {**message, "latest_versions": versions_shown} if versions_shown else message
