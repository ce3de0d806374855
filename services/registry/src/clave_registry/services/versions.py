"""Operations on model versions: register, describe, list, tag.

A version is registered whole: its tenant uploaded its artifacts before, its models are looked into before anything is
written, and what the caller says about inputs, outputs and columns must be what the models say.
"""

from typing import Any

import orjson
from clave_common.access import Caller
from clave_common.blobstore import BlobStore
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import InvalidArgument, NotFound, PayloadTooLarge
from clave_common.pages import decode_token, encode_token
from clave_contracts import registry as contract

from clave_registry.converters import to_version
from clave_registry.domain.manifest import MEDIA_TYPE_DEFAULT, Artifact, Manifest
from clave_registry.domain.names import checked_tags
from clave_registry.domain.version import Stage
from clave_registry.runtime.model_inspector import ModelInspector
from clave_registry.services.declared_signature import completed, require_declared
from clave_registry.services.governance import (
    announce,
    reach_of,
    record_change,
    require_revision,
    tenant_of,
    version_path,
)
from clave_registry.services.models import model_named
from clave_registry.storage import blobs, models, versions
from clave_registry.storage.records import ModelRow, VersionRow

METADATA_BYTES_MAX = 1_000_000


class BlobsMissing(InvalidArgument):
    """A version names bytes that were never uploaded, or of another size."""

    code = "blobs_missing"


def no_version(model: str, version: int) -> NotFound:
    """Build the refusal for a version that is not there."""
    return NotFound(f"'{model}' has no version {version}.", code="version_not_found", model=model, version=version)


async def version_of(
    tx: Transaction, caller: Caller, model: str, version: int, *, lock: bool = False
) -> tuple[ModelRow, VersionRow]:
    """Find a version of the caller's tenant.

    Raises:
        NotFound: There is no such model or version.
    """
    model_row = await model_named(tx, caller, model)
    row = await versions.find(tx, model_row.id, version, lock=lock)
    if row is None:
        raise no_version(model, version)
    return model_row, row


async def shown(tx: Transaction, model: ModelRow, rows: list[VersionRow]) -> list[contract.Version]:
    """Complete version rows with what belongs to them."""
    keys = [(row.model_id, row.version) for row in rows]
    entries = await versions.entries_of(tx, [row.manifest_digest for row in rows])
    approvals = await versions.approvals_of(tx, keys)
    aliases = await models.aliases_of(tx, [model.id])
    return [to_version(model, row, entries=entries, approvals=approvals, aliases=aliases) for row in rows]


class Versions:
    """Register and describe model versions."""

    def __init__(self, database: Database, store: BlobStore, inspector: ModelInspector, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._inspector = inspector
        self._clock = clock

    async def create(self, caller: Caller, model: str, request: contract.VersionCreate) -> contract.Version:
        """Register a version.

        Raises:
            NotFound: There is no such model.
            BlobsMissing: An artifact was not uploaded, or by other tenants only.
            UnsafeModel: The ONNX graph must not be served.
            SignatureMismatch: A model takes or gives something else than declared.
        """
        manifest = Manifest.of(Artifact(a.path, a.digest, a.size) for a in request.artifacts)
        async with self._database.transaction() as tx:
            tenant = (await model_named(tx, caller, model)).tenant
            await _require_blobs(tx, manifest, reach=reach_of(caller))
        await self._require_bytes(manifest)
        signature = request.signature
        for artifact in manifest.models:
            facts = await self._inspector.inspect(
                self._store.read(artifact.digest), path=artifact.path, digest=artifact.digest, tenant=tenant
            )
            signature = completed(signature, facts, path=artifact.path)
            require_declared(signature, facts, path=artifact.path)
        request = request.model_copy(update={"signature": signature})
        async with self._database.transaction() as tx:
            return await self._insert(tx, caller, model, request, manifest)

    async def _require_bytes(self, manifest: Manifest) -> None:
        """A row says that a blob was uploaded; only the store says that it is there."""
        lost = [a.path for a in manifest.artifacts if await self._store.size(a.digest) != a.size]
        if lost:
            raise BlobsMissing(f"Upload these again: {', '.join(lost[:10])}.", paths=lost[:100])

    async def _insert(
        self, tx: Transaction, caller: Caller, model: str, request: contract.VersionCreate, manifest: Manifest
    ) -> contract.Version:
        now = self._clock.now()
        model_row = await model_named(tx, caller, model)
        reach = reach_of(caller)
        await _require_blobs(tx, manifest, reach=reach)
        if reach is None:
            await blobs.link(tx, model_row.tenant, (artifact.digest for artifact in manifest.artifacts), at=now)
        await _require_parent(tx, model_row, request.lineage.parent_version)
        number = await models.take_number(tx, model_row.id, at=now)
        await versions.add_manifest(tx, manifest)
        row = await versions.add(
            tx,
            {
                "model_id": model_row.id,
                "version": number,
                "status": Stage.DRAFT.value,
                "manifest_digest": manifest.digest,
                "media_types": {a.path: a.media_type for a in request.artifacts if a.media_type != MEDIA_TYPE_DEFAULT},
                **_described(request),
                "evaluated_by": caller.subject_id if request.evaluation else None,
                "contributors": sorted({*request.contributors, caller.acting_for}),
                "created_by": caller.acting_for,
                "created_at": now,
                "updated_at": now,
            },
        )
        await versions.add_datasets(tx, row, row.lineage["datasets"])
        await versions.remember(tx, row, at=now, by=caller.acting_for, action="registered", detail="")
        path = version_path(model, number)
        digest = manifest.digest
        await record_change(
            tx, caller, "registry:version.create", path, tenant=model_row.tenant, manifest_digest=digest
        )
        await announce(
            tx,
            "ModelVersionRegistered",
            path,
            tenant=model_row.tenant,
            model=model,
            version=number,
            manifest_digest=digest,
            run_id=request.lineage.run_id,
        )
        return (await shown(tx, model_row, [row]))[0]

    async def get(self, caller: Caller, model: str, version: int) -> tuple[contract.Version, int]:
        """Describe a version; also gives its revision."""
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version)
            return (await shown(tx, model_row, [row]))[0], row.revision

    async def by_alias(self, caller: Caller, model: str, alias: str) -> tuple[contract.Version, int]:
        """Describe the version that an alias names."""
        async with self._database.transaction() as tx:
            model_row = await model_named(tx, caller, model)
            found = await models.alias(tx, model_row.id, alias)
            row = await versions.find(tx, model_row.id, found.version) if found else None
            if row is None:
                raise NotFound(f"'{model}' has no alias '{alias}'.", code="alias_not_found", alias=alias)
            return (await shown(tx, model_row, [row]))[0], row.revision

    async def list_page(
        self, caller: Caller, model: str, *, size: int, token: str | None, status: str | None
    ) -> contract.VersionPage:
        """List a model's versions, newest first."""
        query = f"versions:{tenant_of(caller)}:{model}:{status}"
        before = int(decode_token(token, query=query, kinds=(int,))[0]) if token else None
        async with self._database.transaction() as tx:
            model_row = await model_named(tx, caller, model)
            rows = await versions.page(tx, model_row.id, before=before, limit=size + 1, status=status)
            page = await shown(tx, model_row, rows[:size])
        following = encode_token([rows[size - 1].version], query=query) if len(rows) > size else ""
        return contract.VersionPage(versions=page, next_page_token=following)

    async def tag(
        self, caller: Caller, model: str, version: int, tags: dict[str, str | None], *, revision: int | None
    ) -> tuple[contract.Version, int]:
        """Set tags; one with the value None is removed, those not named stay."""
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version, lock=True)
            require_revision(row.revision, revision)
            merged: dict[str, str | None] = {**row.tags, **tags}
            kept = checked_tags({key: value for key, value in merged.items() if value is not None})
            row = await versions.change(tx, row, at=self._clock.now(), tags=kept)
            await record_change(
                tx,
                caller,
                "registry:version.tag",
                version_path(model, version),
                tenant=model_row.tenant,
                tags=sorted(tags),
            )
            return (await shown(tx, model_row, [row]))[0], row.revision

    async def history(self, caller: Caller, model: str, version: int) -> list[dict[str, Any]]:
        """List everything that was done to a version, oldest first."""
        async with self._database.transaction() as tx:
            _, row = await version_of(tx, caller, model, version)
            return await versions.history(tx, row)


def _described(request: contract.VersionCreate) -> dict[str, Any]:
    described = {
        "signature": request.signature.model_dump(mode="json"),
        "params": request.params,
        "lineage": request.lineage.model_dump(mode="json"),
        "evaluation": request.evaluation.model_dump(mode="json") if request.evaluation else None,
        "card": request.card.model_dump(mode="json"),
        "tags": checked_tags(request.tags),
        "description": request.description,
    }
    size = len(orjson.dumps(described))
    if size > METADATA_BYTES_MAX:
        raise PayloadTooLarge(
            f"What describes a version has at most {METADATA_BYTES_MAX} bytes as JSON; this has {size}. "
            "Keep tables and curves in artifacts.",
            limit=METADATA_BYTES_MAX,
        )
    return described


async def _require_blobs(tx: Transaction, manifest: Manifest, *, reach: str | None) -> None:
    known = await blobs.sizes(tx, (artifact.digest for artifact in manifest.artifacts), tenant=reach)
    missing = [a.path for a in manifest.artifacts if known.get(a.digest) != a.size]
    if missing:
        raise BlobsMissing(
            f"Upload these first, with the size they have: {', '.join(missing[:10])}.", paths=missing[:100]
        )


async def _require_parent(tx: Transaction, model: ModelRow, parent: int | None) -> None:
    if parent is not None and await versions.find(tx, model.id, parent) is None:
        raise InvalidArgument(
            f"The parent version {parent} does not exist.", field="lineage.parent_version", parent_version=parent
        )
