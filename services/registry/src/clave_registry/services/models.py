"""Operations on registered models and their aliases."""

from clave_common.access import Caller
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import AlreadyExists, FailedPrecondition, NotFound
from clave_common.ids import new_id
from clave_common.pages import decode_token, encode_token
from clave_contracts import registry as contract
from clave_contracts.events import Event

from clave_registry.converters import to_model
from clave_registry.domain.names import checked_alias, checked_name, checked_tags
from clave_registry.services.governance import news, record_change, require_revision, tenant_of
from clave_registry.storage import endpoints, holds, models, versions
from clave_registry.storage.records import AliasEventRow, ModelRow


class ModelInUse(FailedPrecondition):
    """The model still answers for an endpoint."""

    code = "model_in_use"


def no_model(name: str) -> NotFound:
    """Build the refusal for a model that is not there."""
    return NotFound(f"There is no registered model '{name}'.", code="model_not_found", model=name)


async def model_named(tx: Transaction, caller: Caller, name: str, *, lock: bool = False) -> ModelRow:
    """Find a model of the caller's tenant.

    Raises:
        NotFound: There is none of that name.
    """
    row = await models.by_name(tx, tenant_of(caller), name, lock=lock)
    if row is None:
        raise no_model(name)
    return row


async def announce_alias(
    tx: Transaction, row: ModelRow, alias: str, version: int | None, *, by: str, reason: str
) -> None:
    """Tell that an alias names another version, or none any more."""
    await tx.emit(alias_moved(row.tenant, row.name, alias, version, by=by, reason=reason))


def alias_moved(tenant: str, model: str, alias: str, version: int | None, *, by: str, reason: str) -> Event:
    """Write down that an alias names another version, or none any more."""
    facts = {"model": model, "alias": alias, "version": version, "by": by, "reason": reason}
    return news("ModelAliasChanged", f"models/{model}/aliases/{alias}", tenant=tenant, **facts)


class Models:
    """Create, describe, change and delete registered models."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, caller: Caller, request: contract.ModelCreate) -> contract.Model:
        """Create a model.

        Raises:
            AlreadyExists: The name is taken.
        """
        now, tenant = self._clock.now(), tenant_of(caller)
        name = checked_name(request.name, noun="model")
        async with self._database.transaction() as tx:
            row = await models.add(
                tx,
                {
                    "id": new_id("mdl"),
                    "tenant": tenant,
                    "name": name,
                    "description": request.description,
                    "tags": checked_tags(request.tags),
                    "risk_class": request.risk_class,
                    "created_by": caller.acting_for,
                    "created_at": now,
                    "updated_at": now,
                },
            )
            if row is None:
                raise AlreadyExists(f"A model named '{name}' exists already.", model=name)
            await record_change(tx, caller, "registry:model.create", f"models/{name}", tenant=tenant)
        return to_model(row, ())

    async def get(self, caller: Caller, name: str) -> tuple[contract.Model, int]:
        """Describe a model; also gives its revision."""
        async with self._database.transaction() as tx:
            row = await model_named(tx, caller, name)
            return to_model(row, await models.aliases_of(tx, [row.id])), row.revision

    async def list_page(
        self, caller: Caller, *, size: int, token: str | None, tag: tuple[str, str] | None
    ) -> contract.ModelPage:
        """List models by name."""
        query = f"models:{tenant_of(caller)}:{tag}"
        after = str(decode_token(token, query=query, kinds=(str,))[0]) if token else None
        async with self._database.transaction() as tx:
            rows = await models.page(tx, caller, tenant_of(caller), after=after, limit=size + 1, tag=tag)
            aliases = await models.aliases_of(tx, [row.id for row in rows])
        shown = rows[:size]
        following = encode_token([shown[-1].name], query=query) if len(rows) > size else ""
        return contract.ModelPage(models=[to_model(row, aliases) for row in shown], next_page_token=following)

    async def update(
        self,
        caller: Caller,
        name: str,
        *,
        description: str | None,
        tags: dict[str, str] | None,
        revision: int | None,
    ) -> tuple[contract.Model, int]:
        """Change a model's description or its tags (as a whole)."""
        values: dict[str, object] = {}
        if description is not None:
            values["description"] = description
        if tags is not None:
            values["tags"] = checked_tags(tags)
        async with self._database.transaction() as tx:
            row = await model_named(tx, caller, name, lock=True)
            require_revision(row.revision, revision)
            row = await models.change(tx, row.id, at=self._clock.now(), **values)
            await record_change(
                tx, caller, "registry:model.update", f"models/{name}", tenant=row.tenant, fields=sorted(values)
            )
            return to_model(row, await models.aliases_of(tx, [row.id])), row.revision

    async def delete(self, caller: Caller, name: str, *, revision: int | None) -> None:
        """Delete a model; its name becomes free, its history stays.

        Raises:
            ModelInUse: An endpoint serves it.
        """
        async with self._database.transaction() as tx:
            row = await model_named(tx, caller, name, lock=True)
            require_revision(row.revision, revision)
            serving = await endpoints.of_model(tx, row.id)
            if serving:
                names = [endpoint.name for endpoint in serving]
                raise ModelInUse(f"'{name}' answers for {', '.join(names)}.", endpoints=names)
            held = await holds.held_versions(tx, row.id)
            if held:
                raise ModelInUse(f"Versions of '{name}' are under legal hold.", code="under_hold", versions=held[:100])
            await models.change(tx, row.id, at=self._clock.now(), deleted_at=self._clock.now())
            await record_change(tx, caller, "registry:model.delete", f"models/{name}", tenant=row.tenant)

    async def point_alias(self, caller: Caller, name: str, alias: str, version: int, *, reason: str) -> contract.Model:
        """Let an alias name a version."""
        checked_alias(alias)
        async with self._database.transaction() as tx:
            row = await model_named(tx, caller, name)
            if await versions.find(tx, row.id, version) is None:
                raise NotFound(f"'{name}' has no version {version}.", code="version_not_found")
            now = self._clock.now()
            await models.point_alias(tx, row.id, alias, version, at=now, by=caller.acting_for, reason=reason)
            await record_change(
                tx,
                caller,
                "registry:version.tag",
                f"models/{name}/aliases/{alias}",
                tenant=row.tenant,
                version=version,
            )
            await announce_alias(tx, row, alias, version, by=caller.acting_for, reason=reason)
            return to_model(row, await models.aliases_of(tx, [row.id]))

    async def drop_alias(self, caller: Caller, name: str, alias: str, *, reason: str) -> None:
        """Remove an alias."""
        async with self._database.transaction() as tx:
            row = await model_named(tx, caller, name)
            now = self._clock.now()
            if not await models.drop_alias(tx, row.id, alias, at=now, by=caller.acting_for, reason=reason):
                raise NotFound(f"'{name}' has no alias '{alias}'.", code="alias_not_found", alias=alias)
            await record_change(tx, caller, "registry:version.tag", f"models/{name}/aliases/{alias}", tenant=row.tenant)
            await announce_alias(tx, row, alias, None, by=caller.acting_for, reason=reason)

    async def alias_history(
        self, caller: Caller, name: str, alias: str, *, size: int, token: str | None
    ) -> tuple[list[AliasEventRow], str]:
        """List the moves of an alias, newest first, and the token of the next page."""
        query = f"alias:{tenant_of(caller)}:{name}:{alias}"
        before = int(decode_token(token, query=query, kinds=(int,))[0]) if token else None
        async with self._database.transaction() as tx:
            row = await model_named(tx, caller, name)
            moves = await models.alias_moves(tx, row.id, alias, before=before, limit=size + 1)
        following = encode_token([moves[size - 1].seq], query=query) if len(moves) > size else ""
        return moves[:size], following
