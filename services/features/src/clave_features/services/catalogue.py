"""The definitions in force: applied as a whole, kept in memory, refreshed when another process changes them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from clave_common.access import Caller
from clave_common.background import Background
from clave_common.database import Database
from clave_contracts import features as wire
from clave_contracts.events import AuditEntry

from clave_features.converters import to_repository
from clave_features.domain.definitions import Repository
from clave_features.domain.digests import digest_of
from clave_features.domain.errors import CatalogueNotLoaded, DefinitionConflict, DefinitionInvalid
from clave_features.domain.online_values import OnlineSchema
from clave_features.domain.read_plan import ReadPlan, ViewRead, read_plan, view_read
from clave_features.storage import batches, definitions
from clave_features.storage.definitions import DefinitionRow

ENTITY: Final = "entity"
VIEW: Final = "feature_view"
SERVICE: Final = "feature_service"
LOOP_NAME: Final = "catalogue"
_POLL_S: Final = 1.0
_MODELS: Final[dict[str, type[wire.Entity] | type[wire.FeatureView] | type[wire.FeatureService]]] = {
    ENTITY: wire.Entity,
    VIEW: wire.FeatureView,
    SERVICE: wire.FeatureService,
}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One state of all definitions.

    Attributes:
        rows: Current definition by (kind, name), with version, digest and document.
    """

    revision: int
    repository: Repository
    rows: dict[tuple[str, str], DefinitionRow] = field(default_factory=dict)
    _plans: dict[str, ReadPlan] = field(default_factory=dict, init=False, repr=False, compare=False)
    _reads: dict[str, ViewRead] = field(default_factory=dict, init=False, repr=False, compare=False)

    def plan(self, service: str) -> ReadPlan:
        """Give the plan to read a feature service online.

        Raises:
            ServiceNotFound: There is no such feature service.
        """
        if service not in self._plans:
            self._plans[service] = read_plan(self.repository, self.repository.service(service))
        return self._plans[service]

    def view_read(self, view: str) -> ViewRead:
        """Give the plan to read whole rows of a view online.

        Raises:
            ViewNotFound: There is no such view.
        """
        if view not in self._reads:
            self._reads[view] = view_read(self.repository, view)
        return self._reads[view]

    def version(self, view: str) -> int:
        """Version of a view's definition."""
        return self.rows[(VIEW, view)].version

    def listed(self, kind: str) -> list[DefinitionRow]:
        """Definitions of one kind, by name."""
        return [row for (one, _), row in sorted(self.rows.items()) if one == kind]


def _catalogue(revision: int, rows: Sequence[DefinitionRow]) -> Catalogue:
    by_kind: dict[str, list[Any]] = {ENTITY: [], VIEW: [], SERVICE: []}
    for row in rows:
        by_kind[row.kind].append(_MODELS[row.kind].model_validate(row.document))
    repository = to_repository(by_kind[ENTITY], by_kind[VIEW], by_kind[SERVICE])
    return Catalogue(revision, repository, {(row.kind, row.name): row for row in rows})


class Catalogues:
    """Reads, applies and watches definitions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._current: Catalogue | None = None
        self.online_changed = asyncio.Event()

    @property
    def current(self) -> Catalogue:
        """The definitions in force, as far as this process knows; at most a poll behind.

        Raises:
            CatalogueNotLoaded: The database has not answered since the service started.
        """
        if self._current is None:
            raise CatalogueNotLoaded("The definitions could not be read from the database yet.", retry_after_s=1.0)
        return self._current

    async def load(self) -> Catalogue:
        """Read the definitions if they changed."""
        async with self._database.transaction() as tx:
            revision = await definitions.revision(tx)
            if self._current is not None and self._current.revision == revision:
                return self._current
            rows = await definitions.current(tx)
        self._current = _catalogue(revision, rows)
        return self._current

    async def run(self, background: Background) -> None:
        """Follow changes that other processes make, until cancelled; the last known state outlives outages."""
        while True:
            await self.load()
            background.healthy(LOOP_NAME)
            await asyncio.sleep(_POLL_S)

    async def ready(self) -> None:
        """Raise CatalogueNotLoaded before the first load."""
        _ = self.current

    async def apply(self, wished: wire.Repository, by: Caller, *, dry_run: bool) -> wire.ApplyAnswer:
        """Bring the definitions to a repository's state, all or nothing.

        What the repository does not mention stays: removing a definition would orphan its history.

        Raises:
            DefinitionInvalid: The result would contradict itself.
            DefinitionConflict: A view that keeps rows would get other keys.
        """
        async with self._database.transaction() as tx:
            await definitions.lock(tx)
            before = _catalogue(await definitions.revision(tx), await definitions.current(tx))
            wanted = _rows_of(wished, before)
            merged = {**before.rows, **{(row.kind, row.name): row for row in wanted}}
            after = _catalogue(before.revision, list(merged.values()))
            kept = await definitions.views_with_history(tx, [view.name for view in before.repository.views])
            _require_stable_keys(before.repository, after.repository, kept)
            changed = [row for row in wanted if _changed(row, before)]
            answer = wire.ApplyAnswer(changes=[_change(row, before) for row in wanted], dry_run=dry_run)
            if dry_run or not changed:
                return answer
            revision = await definitions.save(tx, changed, applied_by=by.acting_for)
            repacked = _repacked(before.repository, after.repository)
            for view in repacked:
                await batches.forget_online(tx, view)
            names = sorted(f"{row.kind}/{row.name}" for row in changed)
            await tx.audit(_audit(by, {"revision": revision, "changed": names}))
        await self.load()
        if repacked:
            self.online_changed.set()
        return answer


def _audit(by: Caller, details: dict[str, Any]) -> AuditEntry:
    return AuditEntry(
        service="features",
        actor=by.subject_id,
        on_behalf_of=by.on_behalf_of,
        tenant=by.tenant,
        action="features:view.write",
        resource="repository",
        details=details,
    )


def _rows_of(wished: wire.Repository, before: Catalogue) -> list[DefinitionRow]:
    rows = []
    for kind, models in (
        (ENTITY, wished.entities),
        (VIEW, wished.feature_views),
        (SERVICE, wished.feature_services),
    ):
        for model in models:
            document = model.model_dump(mode="json", exclude_defaults=True)
            digest = digest_of({"kind": kind, "definition": document})
            known = before.rows.get((kind, model.name))
            version = 1 if known is None else known.version + (known.digest != digest)
            rows.append(DefinitionRow(kind, model.name, version, digest, document))
    _require_once(rows)
    return rows


def _require_once(rows: Sequence[DefinitionRow]) -> None:
    names = [(row.kind, row.name) for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DefinitionInvalid([f"{kind} '{name}' is defined twice" for kind, name in twice])


def _changed(row: DefinitionRow, before: Catalogue) -> bool:
    known = before.rows.get((row.kind, row.name))
    return known is None or known.digest != row.digest


def _change(row: DefinitionRow, before: Catalogue) -> wire.Change:
    known = before.rows.get((row.kind, row.name))
    if known is None:
        return wire.Change.model_validate({"kind": row.kind, "name": row.name, "change": "created", "version": 1})
    change = "unchanged" if known.digest == row.digest else "updated"
    return wire.Change.model_validate({"kind": row.kind, "name": row.name, "change": change, "version": row.version})


def _require_stable_keys(before: Repository, after: Repository, kept: set[str]) -> None:
    for view in before.views:
        if view.name not in kept:
            continue
        old, new = before.entity(view.entity).keys, after.entity(after.view(view.name).entity).keys
        if old != new:
            raise DefinitionConflict(
                f"View '{view.name}' keeps rows under the keys {_keys(old)}; they cannot become {_keys(new)}. "
                "Declare a new view for the new keys.",
                view=view.name,
            )


def _keys(keys: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in keys)


def _repacked(before: Repository, after: Repository) -> list[str]:
    old = {view.name: OnlineSchema.of(view).digest for view in before.views if view.online}
    return [
        view.name
        for view in after.views
        if view.online
        and old.get(view.name) != OnlineSchema.of(view).digest
        and view.name in {v.name for v in before.views}
    ]
