"""Operations on model versions in MLflow's terms; the same rows as the registry's own API.

A version made here pins a manifest of the files that lay in its source's folder at that moment, and is served from that
manifest: what happens to the folder later does not touch it.
"""

from typing import Any

from clave_common.access import Caller
from clave_common.database import Transaction
from clave_common.errors import InvalidArgument, NotFound

from clave_registry.domain.filters import parse_filter, parse_order
from clave_registry.mlflow.context import SCHEME, Context, audited, page_size
from clave_registry.mlflow.grammars import MODEL_VERSIONS
from clave_registry.mlflow.messages import Message
from clave_registry.mlflow.registered_models import VERSION_MAX, model_of
from clave_registry.mlflow.stages import ARCHIVING, checked_stage
from clave_registry.mlflow.values import REGISTRY_TAG_CHARACTERS_MAX, Fields, as_integer, checked_key, key_values
from clave_registry.mlflow.version_messages import by_version, version_message
from clave_registry.services.approvals import require_unused
from clave_registry.services.governance import tenant_of, version_path
from clave_registry.services.holds import require_not_held
from clave_registry.storage import models, versions
from clave_registry.storage.mlflow import registry
from clave_registry.storage.mlflow.search import Asked
from clave_registry.storage.records import ModelRow, VersionRow

PAGE_DEFAULT = 10_000
PAGE_MAX = 200_000
VERSIONS_FOLDER = "versions"


class ModelVersions:
    """Read, change and search model versions."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, caller: Caller, fields: Fields) -> Message:
        """Describe a version."""
        async with self._context.database.transaction() as tx:
            model, row = await version_of(tx, caller, fields)
            return {"model_version": await _complete(tx, model, row)}

    async def update(self, caller: Caller, fields: Fields) -> Message:
        """Change a version's description."""
        return await self._change(caller, fields, description=fields.text("description", ""))

    async def _change(self, caller: Caller, fields: Fields, **values: Any) -> Message:
        async with self._context.database.transaction() as tx:
            model, row = await version_of(tx, caller, fields, lock=True)
            row = await versions.change(tx, row, at=self._context.clock.now(), **values)
            path = version_path(model.name, row.version)
            await audited(tx, caller, "registry:version.tag", path, fields=sorted(values))
            return {"model_version": await _complete(tx, model, row)}

    async def delete(self, caller: Caller, fields: Fields) -> Message:
        """Delete a version; its number stays taken, its aliases go."""
        now = self._context.clock.now()
        async with self._context.database.transaction() as tx:
            model, row = await version_of(tx, caller, fields, lock=True)
            await require_unused(tx, model, row.version)
            await require_not_held(tx, model.id, name=model.name, version=row.version)
            await registry.forget_aliases(tx, model.id, row.version)
            await versions.change(tx, row, at=now, deleted_at=now)
            await models.change(tx, model.id, at=now)
            await audited(tx, caller, "registry:version.tag", version_path(model.name, row.version), deleted=True)
        return {}

    async def set_tag(self, caller: Caller, fields: Fields) -> Message:
        """Set a tag."""
        tags = key_values([fields], what="tag", length_max=REGISTRY_TAG_CHARACTERS_MAX)
        async with self._context.database.transaction() as tx:
            model, row = await version_of(tx, caller, fields, lock=True)
            await versions.change(tx, row, at=self._context.clock.now(), tags={**row.tags, **tags})
            path = version_path(model.name, row.version)
            await audited(tx, caller, "registry:version.tag", path, tags=sorted(tags))
        return {}

    async def delete_tag(self, caller: Caller, fields: Fields) -> Message:
        """Remove a tag; one that is not there is no error."""
        key = checked_key(fields.text("key"), what="tag")
        async with self._context.database.transaction() as tx:
            model, row = await version_of(tx, caller, fields, lock=True)
            left = {name: value for name, value in row.tags.items() if name != key}
            await versions.change(tx, row, at=self._context.clock.now(), tags=left)
            await audited(tx, caller, "registry:version.tag", version_path(model.name, row.version), tags=[key])
        return {}

    async def download_uri(self, caller: Caller, fields: Fields) -> Message:
        """Say where a version's files are: below its own pinned manifest."""
        async with self._context.database.transaction() as tx:
            model, row = await version_of(tx, caller, fields)
            entries = await versions.entries_of(tx, [row.manifest_digest])
        pinned = f"{SCHEME}{VERSIONS_FOLDER}/{model.id}/{row.version}"
        return {"artifact_uri": pinned if entries or not row.source else row.source}

    async def transition_stage(self, caller: Caller, fields: Fields) -> Message:
        """Move a version to one of MLflow's legacy stages, a label; traffic follows endpoints alone."""
        stage, archive = checked_stage(fields.text("stage")), fields.flag("archive_existing_versions")
        if archive and stage not in ARCHIVING:
            raise InvalidArgument(
                f"Model version transition cannot archive existing model versions because '{stage}' is not an Active "
                f"stage. Valid stages are {', '.join(ARCHIVING)}.",
                field="archive_existing_versions",
            )
        now = self._context.clock.now()
        async with self._context.database.transaction() as tx:
            await model_of(tx, caller, fields, lock=True)
            model, row = await version_of(tx, caller, fields, lock=True)
            if archive:
                await registry.archive_others(tx, model.id, row.version, stage, at=now)
            row = await versions.change(tx, row, at=now, legacy_stage=stage)
            await models.change(tx, model.id, at=now)
            path = version_path(model.name, row.version)
            await versions.remember(tx, row, at=now, by=caller.acting_for, action="legacy_stage", detail=stage)
            await audited(tx, caller, "registry:version.tag", path, legacy_stage=stage)
            return {"model_version": await _complete(tx, model, row)}

    async def search(self, caller: Caller, fields: Fields) -> Message:
        """Search versions of all models."""
        size = page_size(fields.integer("max_results", PAGE_DEFAULT), most=PAGE_MAX)
        source, order = fields.text("filter", ""), fields.texts("order_by")
        asked = Asked(
            tenant=tenant_of(caller),
            conditions=parse_filter(source, MODEL_VERSIONS),
            orders=parse_order(order, MODEL_VERSIONS),
            size=size,
            token=fields.optional("page_token"),
            query=f"versions:{tenant_of(caller)}:{source}:{order}",
        )
        found, following = await registry.search_versions(self._context.database, asked, caller)
        shown = [version_message(name, row, aliases) for name, aliases, row in found]
        answer: Message = {"model_versions": shown}
        return {**answer, "next_page_token": following} if following else answer


async def version_of(
    tx: Transaction, caller: Caller, fields: Fields, *, lock: bool = False
) -> tuple[ModelRow, VersionRow]:
    """Find the version that a request names.

    Raises:
        NotFound: There is no such model or version.
        InvalidArgument: The version is no number.
    """
    model, number = await model_of(tx, caller, fields), as_integer("version", fields.text("version"))
    row = await versions.find(tx, model.id, number, lock=lock) if 1 <= number <= VERSION_MAX else None
    if row is None:
        raise NotFound(f"Model Version (name={model.name}, version={number}) not found.", code="version_not_found")
    return model, row


async def _complete(tx: Transaction, model: ModelRow, row: VersionRow) -> Message:
    aliases = by_version(await models.aliases_of(tx, [model.id]))
    return version_message(model.name, row, aliases.get((row.model_id, row.version), ()))
