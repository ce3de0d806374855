"""Registers a version from MLflow's ``source``: finds its files, looks into its models, pins them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clave_common.access import Caller
from clave_common.database import Database, Transaction
from clave_common.errors import Aborted, InvalidArgument
from clave_contracts.events import AuditEntry, Event
from sqlalchemy import RowMapping

from clave_registry.domain.manifest import Artifact, Manifest, model_format
from clave_registry.domain.version import Stage
from clave_registry.mlflow.context import Context
from clave_registry.mlflow.logged_models import logged_model_of
from clave_registry.mlflow.messages import Message
from clave_registry.mlflow.model_versions import version_of
from clave_registry.mlflow.registered_models import model_of, no_model
from clave_registry.mlflow.sources import (
    FolderSource,
    ForeignSource,
    LoggedModelSource,
    RunSource,
    Source,
    VersionSource,
    folder_of,
    parse_source,
)
from clave_registry.mlflow.values import REGISTRY_TAG_CHARACTERS_MAX, Fields, invalid, key_values
from clave_registry.mlflow.version_messages import version_message
from clave_registry.runtime.model_inspector import ModelFacts, UnsafeModel
from clave_registry.services.governance import change_entry, news, tenant_of
from clave_registry.storage import versions
from clave_registry.storage.mlflow import artifacts, statements
from clave_registry.storage.mlflow import logged_models as logged_rows
from clave_registry.storage.mlflow import runs as run_rows
from clave_registry.storage.records import ShownVersion

Digests = Mapping[str, str]
"""Digest of each model file, by its path."""

GRAPH = "model.onnx"
_NO_SIGNATURE: dict[str, Any] = {"inputs": [], "outputs": []}
_SHOWN = tuple(
    name for name in ShownVersion.__dataclass_fields__ if name not in {"model_id", "version", "legacy_stage"}
)
EMPTY_MANIFEST = hashlib.sha256(b"[]").hexdigest()


@dataclass(frozen=True, slots=True)
class Origin:
    """What a source turned out to be.

    Attributes:
        folder: Folder of the artifact table; None where the registry holds no files of it.
        manifest_digest, media_types: Of the version that is being copied.
        source: What to remember as the version's source.
    """

    source: str
    run_id: str = ""
    logged_model_id: str | None = None
    folder: str | None = None
    manifest_digest: str | None = None
    params: dict[str, str] | None = None
    media_types: dict[str, str] = field(default_factory=dict)


class Registration:
    """Create model versions."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, caller: Caller, fields: Fields) -> Message:
        """Register a version; in one statement where the registry holds no files of it."""
        source = parse_source(fields.text("source"))
        if isinstance(source, ForeignSource):
            return await self._registered(self._context.database, caller, fields, _foreign(fields))
        async with self._context.database.transaction() as tx:
            await model_of(tx, caller, fields)
            origin = await _origin(tx, caller, fields, source)
            models = await _models(tx, caller, origin)
        if origin.folder is None:
            return await self._registered(self._context.database, caller, fields, origin)
        signature, reason = await self._look_into(models, folder=origin.folder, tenant=tenant_of(caller))
        async with self._context.database.transaction() as tx:
            digest = await _pinned(tx, caller, origin.folder, models=models)
            pinned = replace(origin, manifest_digest=digest)
            return await self._registered(tx, caller, fields, pinned, signature=signature, reason=reason)

    async def _registered(
        self,
        door: Database | Transaction,
        caller: Caller,
        fields: Fields,
        origin: Origin,
        *,
        signature: dict[str, Any] = _NO_SIGNATURE,
        reason: str = "",
    ) -> Message:
        tags = key_values(fields.items("tags"), what="tag", length_max=REGISTRY_TAG_CHARACTERS_MAX)
        now, tenant, model = self._context.clock.now(), tenant_of(caller), fields.text("name")
        digest = origin.manifest_digest or EMPTY_MANIFEST
        columns: dict[str, Any] = {
            "status": Stage.DRAFT.value,
            "status_reason": reason,
            "manifest_digest": digest,
            "media_types": origin.media_types,
            "signature": signature,
            "params": origin.params or {},
            "lineage": {"run_id": origin.run_id or None, "datasets": []},
            "card": {},
            "tags": tags,
            "description": fields.text("description", ""),
            "contributors": [caller.acting_for],
            "created_by": caller.acting_for,
            "created_at": now,
            "updated_at": now,
            "source": origin.source,
            "artifact_root": origin.folder,
            "run_id": origin.run_id,
            "run_link": fields.text("run_link", ""),
            "logged_model_id": origin.logged_model_id,
        }
        said = _registration_told(caller, model, digest=digest, run_id=origin.run_id or None)
        number = await statements.register(door, tenant=tenant, model=model, version=columns, said=said)
        if number is None:
            raise no_model(model)
        shown = ShownVersion("", number, legacy_stage="None", **{name: columns[name] for name in _SHOWN})
        return {"model_version": version_message(model, shown, ())}

    async def _look_into(self, models: Digests, *, folder: str, tenant: str) -> tuple[dict[str, Any], str]:
        """Give the graph's signature, or why the version may be kept and can never be deployed: it has none then."""
        signature, faults = _NO_SIGNATURE, []
        for path, digest in models.items():
            name = path[len(folder) + 1 :]
            try:
                facts = await self._context.inspector.inspect(
                    self._context.store.read(digest), path=name, digest=digest, tenant=tenant
                )
            except UnsafeModel as refusal:
                faults.append(refusal.detail)
                continue
            if name == GRAPH:
                signature = _signature(facts)
        return (_NO_SIGNATURE, " ".join(faults)) if faults else (signature, "")


def _signature(facts: ModelFacts) -> dict[str, Any]:
    inputs = [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in facts.inputs]
    outputs = [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in facts.outputs]
    return {"inputs": inputs, "outputs": outputs}


def _registration_told(caller: Caller, model: str, *, digest: str, run_id: str | None) -> tuple[AuditEntry, Event]:
    tenant, path = tenant_of(caller), f"models/{model}/versions/{statements.NUMBER}"
    facts = {"model": model, "version": statements.NUMBER, "manifest_digest": digest, "run_id": run_id}
    return (
        change_entry(caller, "registry:version.create", path, tenant=tenant, via="mlflow", manifest_digest=digest),
        news("ModelVersionRegistered", path, tenant=tenant, **facts),
    )


def _foreign(fields: Fields) -> Origin:
    return Origin(fields.text("source"), fields.text("run_id", ""), fields.optional("model_id"))


async def _origin(tx: Transaction, caller: Caller, fields: Fields, found: Source) -> Origin:
    source = fields.text("source")
    run_id, model_id = fields.text("run_id", ""), fields.optional("model_id")
    match found:
        case LoggedModelSource(named):
            if model_id not in {None, named}:
                raise invalid("model_id", model_id)
            return await _from_logged_model(tx, caller, source, named, run_id)
        case RunSource(named, path):
            if run_id and run_id != named:
                raise invalid("run_id", run_id)
            run = await run_rows.find(tx, tenant_of(caller), named)
            folder = f"{folder_of(run['artifact_uri'])}/{path}" if run is not None else None
            return Origin(source, named, model_id, folder, params=dict(run["params"]) if run else None)
        case VersionSource(name, version):
            copied = Fields({"name": name, "version": str(version)})
            _, row = await version_of(tx, caller, copied)
            if (run_id and run_id != row.run_id) or model_id not in {None, row.logged_model_id}:
                raise invalid("run_id" if run_id else "model_id", run_id or model_id)
            return Origin(
                row.source or source,
                row.run_id,
                row.logged_model_id,
                manifest_digest=row.manifest_digest,
                params=dict(row.params),
                media_types=dict(row.media_types),
            )
        case FolderSource(path):
            await _require_inside(tx, caller, source, path, run_id=run_id, model_id=model_id)
            return Origin(source, run_id, model_id, path)
        case ForeignSource():
            return _foreign(fields)


async def _from_logged_model(tx: Transaction, caller: Caller, source: str, model_id: str, run_id: str) -> Origin:
    row = await logged_model_of(tx, caller, model_id)
    folder = folder_of(row["artifact_uri"])
    return Origin(source, run_id or row["source_run_id"], model_id, folder, params=dict(row["params"]))


async def _require_inside(
    tx: Transaction, caller: Caller, source: str, path: str, *, run_id: str, model_id: str | None
) -> None:
    roots: list[str] = []
    if run_id and (run := await run_rows.find(tx, tenant_of(caller), run_id)) is not None:
        roots.append(folder_of(run["artifact_uri"]))
    if model_id and (logged := await logged_rows.find(tx, tenant_of(caller), model_id)) is not None:
        roots.append(folder_of(logged["artifact_uri"]))
    if not any(path == root or path.startswith(f"{root}/") for root in roots):
        raise InvalidArgument(
            f"Invalid model version source: '{source[:200]}'. It must lie inside the artifacts of the run_id or the "
            "model_id that comes with it.",
            field="source",
        )


async def _models(tx: Transaction, caller: Caller, origin: Origin) -> Digests:
    """Find the files of formats that are looked into: ONNX, XGBoost, safetensors."""
    if origin.folder is None:
        return {}
    return _of_models(await artifacts.below(tx, tenant_of(caller), origin.folder))


def _of_models(files: Sequence[RowMapping]) -> Digests:
    return {row["path"]: row["digest"] for row in files if model_format(row["path"]) is not None}


async def _pinned(tx: Transaction, caller: Caller, folder: str, *, models: Digests) -> str:
    """Pin a folder's files; only with the models that were looked into.

    Raises:
        Aborted: Somebody put another model there meanwhile.
    """
    await artifacts.hold_still(tx, tenant_of(caller))
    files = await artifacts.below(tx, tenant_of(caller), folder)
    if models != _of_models(files):
        raise Aborted("The files were changed while they were looked into; register again.")
    if not files:
        return EMPTY_MANIFEST
    start = len(folder) + 1
    manifest = Manifest.of(Artifact(row["path"][start:], row["digest"], row["size"]) for row in files)
    await versions.add_manifest(tx, manifest)
    return manifest.digest
