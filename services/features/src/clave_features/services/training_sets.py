"""Training sets: immutable snapshots, named by the digest of everything that decides their content."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from clave_common.access import Caller
from clave_common.blobstore import BlobRef, BlobStore
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.ids import new_id
from clave_contracts import features as wire
from clave_contracts.client import file_chunks
from clave_contracts.events import AuditEntry, Event

from clave_features.domain.definitions import FeatureRef, FeatureService, View
from clave_features.domain.digests import digest_of
from clave_features.domain.dtypes import Dtype
from clave_features.domain.errors import DefinitionInvalid, TrainingSetNotFound
from clave_features.runtime.engine import Engine, discard
from clave_features.runtime.history import HistoryFiles
from clave_features.runtime.membership import matching_rows
from clave_features.runtime.snapshots import Side, Snapshot, SnapshotPlan, build, join_sql, labels_sql
from clave_features.services.catalogue import SERVICE, VIEW, Catalogue, Catalogues
from clave_features.storage import batches, training_sets
from clave_features.storage.batches import HistoryFileRow
from clave_features.storage.training_sets import TrainingSetRow

FORMAT = 1


@dataclass(frozen=True, slots=True)
class _Inputs:
    plan: SnapshotPlan
    manifest: dict[str, Any]
    service: FeatureService


class TrainingSets:
    """Makes and finds training sets."""

    def __init__(
        self,
        *,
        database: Database,
        catalogues: Catalogues,
        engine: Engine,
        blobs: BlobStore,
        files: HistoryFiles,
        clock: Clock,
    ) -> None:
        self._database = database
        self._catalogues = catalogues
        self._engine = engine
        self._blobs = blobs
        self._files = files
        self._clock = clock

    async def create(self, request: wire.TrainingSetRequest, by: Caller) -> wire.TrainingSet:
        """Make a training set, or find the one of the same inputs.

        Raises:
            ServiceNotFound, ViewNotFound, FeatureNotFound: The request names what is not there.
            DefinitionInvalid: The label view is none, or keys do not cover the features' entities.
            NoLabels: There is no label row in the time span.
        """
        now = self._clock.now()
        inputs = await self._inputs(request, as_of=min(request.as_of or now, now))
        manifest_digest = digest_of(inputs.manifest)
        async with self._database.transaction() as tx:
            earlier = await training_sets.find(tx, name=request.name, manifest_digest=manifest_digest)
        if earlier is not None:
            return describe(earlier)
        snapshot, blob = await self._build(inputs.plan)
        return await self._keep(request, inputs, manifest_digest, snapshot, blob, by)

    async def get(self, training_set_id: str) -> TrainingSetRow:
        """Give a training set.

        Raises:
            TrainingSetNotFound: There is none of that id.
        """
        async with self._database.transaction() as tx:
            row = await training_sets.get(tx, training_set_id)
        if row is None:
            raise TrainingSetNotFound(f"There is no training set '{training_set_id}'.", id=training_set_id)
        return row

    async def page(self, *, name: str | None, after: tuple[datetime, str] | None, limit: int) -> list[TrainingSetRow]:
        """List training sets, the newest first."""
        async with self._database.transaction() as tx:
            return await training_sets.page(tx, name=name, after=after, limit=limit)

    async def holding(
        self, keys: Mapping[str, str | int], *, after: tuple[datetime, str] | None, limit: int
    ) -> tuple[list[tuple[TrainingSetRow, int]], list[TrainingSetRow]]:
        """Find the training sets of one page that hold rows of an entity.

        Args:
            keys: Entity columns and their values; a set that lacks one of the columns cannot hold the entity.
            after: Position of the page, newest first.
            limit: Training sets to look into.

        Returns:
            The sets with their count of matching rows, and every set of the page.
        """
        rows = await self.page(name=None, after=after, limit=limit)
        asked = [(row, found) for row in rows if (found := typed_keys(describe(row), keys)) is not None]
        files = [((await self._files.local(row.digest, ())).path, found) for row, found in asked]
        counts = await self._engine.run(matching_rows, self._engine, files) if files else []
        return [(row, count) for (row, _), count in zip(asked, counts, strict=True) if count], rows

    async def _inputs(self, request: wire.TrainingSetRequest, *, as_of: datetime) -> _Inputs:
        catalogue = self._catalogues.current
        repository = catalogue.repository
        service = repository.service(request.feature_service)
        label_view = repository.view(request.label_view)
        label_view.feature(request.label)
        columns = (*service.features, *(FeatureRef.parse(text) for text in request.extra))
        _require_joinable(catalogue, label_view, columns)
        views = dict.fromkeys(ref.view for ref in columns)
        rows: dict[str, list[HistoryFileRow]] = {}
        async with self._database.transaction() as tx:
            for name in (label_view.name, *views):
                rows[name] = await batches.files_of(tx, name, until=as_of)
        plan = SnapshotPlan(
            labels=await self._side(catalogue, label_view.name, rows),
            label=request.label,
            sides=tuple([await self._side(catalogue, name, rows) for name in views]),
            columns=columns,
            as_of=as_of,
            label_after=request.label_after,
            as_known=request.as_known,
        )
        return _Inputs(plan, _manifest(catalogue, service, plan, rows), service)

    async def _side(self, catalogue: Catalogue, name: str, rows: dict[str, list[HistoryFileRow]]) -> Side:
        view = catalogue.repository.view(name)
        files = [await self._files.local(row.digest, row.columns) for row in rows[name]]
        return Side(view, catalogue.repository.entity(view.entity), tuple(files))

    async def _build(self, plan: SnapshotPlan) -> tuple[Snapshot, BlobRef]:
        target = Path(self._engine.scratch) / f"{uuid4().hex}.parquet"
        try:
            snapshot = await self._engine.run(build, self._engine, plan, target)
            return snapshot, await self._blobs.put(file_chunks(str(target)))
        finally:
            await asyncio.to_thread(discard, target)

    async def _keep(
        self,
        request: wire.TrainingSetRequest,
        inputs: _Inputs,
        manifest_digest: str,
        snapshot: Snapshot,
        blob: BlobRef,
        by: Caller,
    ) -> wire.TrainingSet:
        catalogue = self._catalogues.current
        made = wire.TrainingSet(
            id=new_id("ts"),
            name=request.name,
            digest=blob.digest,
            manifest_digest=manifest_digest,
            rows=snapshot.rows,
            columns=_columns(inputs.plan, inputs.service),
            feature_service=request.feature_service,
            feature_views={side.view.name: catalogue.version(side.view.name) for side in inputs.plan.sides},
            statuses=snapshot.statuses,
            label_view=request.label_view,
            as_of=inputs.plan.as_of,
            label_after=request.label_after,
            created_at=self._clock.now(),
            bytes=blob.size,
            consent_policy=inputs.manifest["purposes"],
        )
        values = {
            "id": made.id,
            "name": made.name,
            "digest": made.digest,
            "manifest_digest": manifest_digest,
            "manifest": inputs.manifest,
            "description": made.model_dump(mode="json"),
            "feature_service": made.feature_service,
            "created_at": made.created_at,
            "created_by": by.acting_for,
        }
        async with self._database.transaction() as tx:
            row = await training_sets.add(tx, values)
            if row is None:
                found = await training_sets.find(tx, name=made.name, manifest_digest=manifest_digest)
                return made if found is None else describe(found)
            await tx.emit(_created(made, by))
            await tx.audit(_audit(made, by))
        return describe(row)


def typed_keys(made: wire.TrainingSet, keys: Mapping[str, str | int]) -> dict[str, str | int] | None:
    """Give an entity's keys in the types of a training set's columns; None where it cannot hold them."""
    columns = {column.name: column.dtype for column in made.columns if column.role == "entity"}
    typed: dict[str, str | int] = {}
    for name, value in keys.items():
        if name not in columns:
            return None
        if columns[name] != Dtype.INT64:
            typed[name] = str(value)
        elif isinstance(value, int) or value.removeprefix("-").isdecimal():
            typed[name] = int(value)
        else:
            return None
    return typed


def describe(row: TrainingSetRow) -> wire.TrainingSet:
    """Give a training set as its readers see it."""
    return wire.TrainingSet.model_validate(row.description)


def _require_joinable(catalogue: Catalogue, label_view: View, columns: tuple[FeatureRef, ...]) -> None:
    repository = catalogue.repository
    problems = [] if label_view.is_label else [f"view '{label_view.name}' is no label view"]
    keys = dict(repository.entity(label_view.entity).keys)
    for name in dict.fromkeys(ref.view for ref in columns):
        view = repository.view(name)
        for key, dtype in repository.entity(view.entity).keys:
            if keys.get(key) is not dtype:
                problems.append(f"view '{name}' is keyed by {key} {dtype}, which label view '{label_view.name}' lacks")
    twice = [ref.column for ref in columns]
    problems += [f"'{column}' is asked for twice" for column in sorted({c for c in twice if twice.count(c) > 1})]
    for ref in columns:
        repository.feature(ref)
    if problems:
        raise DefinitionInvalid(problems)


def _manifest(
    catalogue: Catalogue, service: FeatureService, plan: SnapshotPlan, rows: dict[str, list[HistoryFileRow]]
) -> dict[str, Any]:
    relations = {side.view.name: side.view.name for side in plan.sides}
    views = [plan.labels.view.name, *relations]
    purposes = {name: list(catalogue.repository.view(name).purposes) for name in views}
    declared = {name: allowed for name, allowed in purposes.items() if allowed}
    return {
        "format": FORMAT,
        "files": {name: [row.digest for row in rows[name]] for name in views},
        "definitions": {name: catalogue.rows[(VIEW, name)].digest for name in views}
        | {f"service:{service.name}": catalogue.rows[(SERVICE, service.name)].digest},
        "columns": [ref.column for ref in plan.columns],
        "labels_sql": labels_sql(plan, plan.labels.view.name),
        "sql": join_sql(plan, relations),
        "as_of": plan.as_of.isoformat(),
        "label_after": None if plan.label_after is None else plan.label_after.isoformat(),
        "as_known": plan.as_known,
        "purposes": digest_of(declared) if declared else None,
    }


def _columns(plan: SnapshotPlan, service: FeatureService) -> list[wire.Column]:
    labels = plan.labels.view
    label = labels.feature(plan.label)
    columns = [wire.Column(name=name, role="entity", dtype=str(dtype)) for name, dtype in plan.labels.entity.keys]
    columns.append(wire.Column(name="event_ts", role="timestamp", dtype="timestamp"))
    columns.append(
        wire.Column(
            name=label.name, role="label", dtype=str(label.dtype), levels=list(label.levels) or None, view=labels.name
        )
    )
    for ref in plan.columns:
        one = plan.side(ref.view).view.feature(ref.feature)
        columns.append(
            wire.Column(
                name=ref.column,
                role="feature" if ref in service.features else "extra",
                dtype=str(one.dtype),
                levels=list(one.levels) or None,
                view=ref.view,
            )
        )
    return columns


def _created(made: wire.TrainingSet, by: Caller) -> Event:
    return Event(
        type="TrainingSetCreated",
        source="features",
        subject=f"training-sets/{made.id}",
        tenant=by.tenant,
        data={"id": made.id, "name": made.name, "digest": made.digest, "rows": made.rows},
    )


def _audit(made: wire.TrainingSet, by: Caller) -> AuditEntry:
    return AuditEntry(
        service="features",
        actor=by.subject_id,
        on_behalf_of=by.on_behalf_of,
        tenant=by.tenant,
        action="features:offline.read",
        resource=f"training-sets/{made.id}",
        details={"name": made.name, "digest": made.digest, "manifest_digest": made.manifest_digest, "rows": made.rows},
    )
