"""Operations on lineage, in both directions: what a version was made from, and what was made from some data."""

from typing import Any

from clave_common.access import Caller
from clave_common.database import Database, Transaction
from clave_common.errors import InvalidArgument

from clave_registry.domain import openlineage
from clave_registry.services.governance import tenant_of
from clave_registry.services.versions import version_of
from clave_registry.storage import endpoints, rollouts, versions
from clave_registry.storage.records import ModelRow, VersionRow

VERSIONS_MAX = 1000
ANCESTORS_MAX = 100


class Lineages:
    """Answer where a version comes from and where data went."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_version(self, caller: Caller, model: str, version: int) -> dict[str, Any]:
        """Describe what a version was made from, its ancestors, and where it answered."""
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version)
            return {
                "model": model,
                "version": version,
                "manifest_digest": row.manifest_digest,
                "lineage": row.lineage,
                "params": row.params,
                "ancestors": await _ancestors(tx, row),
                "endpoints": await _assignments(tx, model_row, row),
                "rollouts": await _rollouts(tx, model_row, row),
            }

    async def openlineage(self, caller: Caller, model: str, version: int) -> dict[str, Any]:
        """Describe how a version came to be as an OpenLineage run event."""
        async with self._database.transaction() as tx:
            _, row = await version_of(tx, caller, model, version)
        return openlineage.run_event(
            model=model,
            version=version,
            manifest_digest=row.manifest_digest,
            lineage=row.lineage,
            params=row.params,
            at=row.created_at,
        )

    async def of_dataset(self, caller: Caller, *, digest: str | None, dataset_id: str | None) -> dict[str, Any]:
        """List the versions that were made from a training set, and the endpoints they answer for now.

        Raises:
            InvalidArgument: Neither a digest nor an id was given.
        """
        if digest is None and dataset_id is None:
            raise InvalidArgument("Give dataset_digest or dataset_id.", field="dataset_digest")
        async with self._database.transaction() as tx:
            found = await versions.using_dataset(
                tx, tenant_of(caller), digest=digest, dataset_id=dataset_id, limit=VERSIONS_MAX
            )
            serving: dict[str, list[Any]] = {}
            for model_id in {row.model_id for _, row in found}:
                serving[model_id] = list(await endpoints.of_model(tx, model_id))
        return {
            "dataset_digest": digest,
            "dataset_id": dataset_id,
            "versions": [
                {
                    "model": name,
                    "version": row.version,
                    "status": row.status,
                    "created_at": row.created_at,
                    "endpoints": [
                        e.name for e in serving[row.model_id] if row.version in {e.live_version, e.previous_version}
                    ],
                }
                for name, row in found
            ],
        }


async def _ancestors(tx: Transaction, row: VersionRow) -> list[dict[str, Any]]:
    chain: list[dict[str, Any]] = []
    seen = {row.version}
    parent = row.lineage.get("parent_version")
    while parent is not None and parent not in seen and len(chain) < ANCESTORS_MAX:
        seen.add(parent)
        found = await versions.find(tx, row.model_id, int(parent))
        if found is None:
            break
        chain.append({"version": found.version, "status": found.status, "run_id": found.lineage.get("run_id")})
        parent = found.lineage.get("parent_version")
    return chain


async def _assignments(tx: Transaction, model: ModelRow, row: VersionRow) -> list[dict[str, Any]]:
    spans: list[dict[str, Any]] = []
    for endpoint in await endpoints.of_model(tx, model.id):
        found = await endpoints.assignments(tx, endpoint.name, at=None, before=None, limit=1000)
        spans += [
            {"endpoint": endpoint.name, "since": s.since, "until": s.until, "by": s.by, "reason": s.reason}
            for s in found
            if s.version == row.version
        ]
    return spans


async def _rollouts(tx: Transaction, model: ModelRow, row: VersionRow) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for endpoint in await endpoints.of_model(tx, model.id):
        found = await rollouts.of_endpoint(tx, endpoint.name, before=None, limit=1000)
        shown += [
            {
                "id": r.id,
                "endpoint": endpoint.name,
                "state": r.phase,
                "outcome": r.outcome,
                "created_at": r.created_at,
                "finished_at": r.finished_at,
            }
            for r in found
            if r.version == row.version
        ]
    return shown
