"""Operations on lineage, in both directions: what a version was made from, and what was made from some data.

Whose rows are in which training set is the feature service's to know; it is asked, and what follows for versions and
endpoints is said here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from clave_common.access import Caller
from clave_common.database import Database, Transaction
from clave_common.errors import InvalidArgument

from clave_registry.domain import openlineage
from clave_registry.services.governance import tenant_of
from clave_registry.services.versions import version_of
from clave_registry.storage import endpoints, rollouts, versions
from clave_registry.storage.records import EndpointRow, ModelRow, RolloutRow, VersionRow

VERSIONS_MAX = 1000
ANCESTORS_MAX = 100


@dataclass(frozen=True, slots=True)
class HeldIn:
    """A training set that holds rows of an entity."""

    id: str
    name: str
    digest: str
    matching_rows: int


class MembershipSource(Protocol):
    """Who knows which training sets hold an entity."""

    async def training_sets_with(
        self, keys: Mapping[str, str | int], *, on_behalf_of: str
    ) -> tuple[list[HeldIn], bool]:
        """Find the training sets, and tell whether all of them were looked into."""
        ...


class Lineages:
    """Answer where a version comes from and where data went."""

    def __init__(self, database: Database, *, membership: MembershipSource) -> None:
        self._database = database
        self._membership = membership

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

    async def of_entity(self, caller: Caller, keys: Mapping[str, str | int]) -> dict[str, Any]:
        """Say what follows when a customer withdraws consent: which training sets, versions and endpoints hold them.

        Args:
            caller: Who asks.
            keys: The entity's keys. They are neither stored nor logged.

        Returns:
            ``training_sets``; ``versions`` made from them; ``must_retrain``: endpoints whose live or candidate version
            is among these; ``must_not_return_to``: endpoints that would go back to one; ``complete``: False when
            there were more training sets or versions than were looked into.
        """
        held, complete = await self._membership.training_sets_with(keys, on_behalf_of=caller.acting_for)
        async with self._database.transaction() as tx:
            found = await versions.using_datasets(
                tx, tenant_of(caller), ids=[one.id for one in held], limit=VERSIONS_MAX
            )
            touched: list[EndpointRow] = []
            for model_id in sorted({row.model_id for _, row in found}):
                touched += await endpoints.of_model(tx, model_id)
            running = {
                row.id: row for row in await rollouts.several(tx, [e.rollout_id for e in touched if e.rollout_id])
            }
        used = {(row.model_id, row.version) for _, row in found}
        retrain = [e for e in touched if {(e.model_id, e.live_version), _candidate(e, running)} & used]
        return {
            "training_sets": [asdict(one) for one in held],
            "versions": [_used_version(name, row, touched, {one.id for one in held}) for name, row in found],
            "must_retrain": [{"endpoint": e.name, "model": e.model, "live_version": e.live_version} for e in retrain],
            "must_not_return_to": [
                {"endpoint": e.name, "model": e.model, "previous_version": e.previous_version}
                for e in touched
                if (e.model_id, e.previous_version) in used
            ],
            "complete": complete and len(found) < VERSIONS_MAX,
        }


def _candidate(endpoint: EndpointRow, running: Mapping[str, RolloutRow]) -> tuple[str, int | None]:
    rollout = running.get(endpoint.rollout_id or "")
    return endpoint.model_id, rollout.version if rollout is not None and rollout.finished_at is None else None


def _used_version(name: str, row: VersionRow, touched: list[EndpointRow], ids: set[str]) -> dict[str, Any]:
    return {
        "model": name,
        "version": row.version,
        "status": row.status,
        "created_at": row.created_at,
        "training_sets": [d["id"] for d in row.lineage.get("datasets") or [] if d["id"] in ids],
        "endpoints": [e.name for e in touched if (e.model_id, e.live_version) == (row.model_id, row.version)],
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
