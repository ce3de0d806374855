"""The desired state of inference: what to load, how to route, what to keep warm.

Its revision is a digest over its content, so that equal states have equal revisions on every replica and after every
restart, and a poll that finds nothing new costs no body.
"""

import hashlib

import orjson
from clave_common.database import Database
from clave_contracts import registry as contract

from clave_registry.converters import to_artifacts, to_routes
from clave_registry.domain.traffic import Route
from clave_registry.runtime.trusted_keys import TrustedKeys
from clave_registry.services.endpoints import routes_of
from clave_registry.services.rollout_rows import running_rollout
from clave_registry.services.signatures import files_of, verifies
from clave_registry.storage import endpoints, signatures, versions
from clave_registry.storage.records import EndpointRow, EntryRow, SignatureRow, VersionRow

ENDPOINTS_MAX = 10_000


class DesiredStates:
    """Assemble the desired state from the rows of endpoints, rollouts and versions."""

    def __init__(self, database: Database, *, trusted: TrustedKeys) -> None:
        self._database = database
        self._trusted = trusted

    async def get(self) -> contract.DesiredState:
        """Assemble the desired state of all tenants."""
        async with self._database.transaction() as tx:
            rows = await endpoints.page(tx, tenant=None, after=None, limit=ENDPOINTS_MAX)
            shown = [_endpoint(row, routes_of(row, await running_rollout(tx, row))) for row in rows]
            keys = {
                (row.model_id, number)
                for row, endpoint in zip(rows, shown, strict=True)
                for number in (*(route.version for route in endpoint.routes), *endpoint.keep)
            }
            owners = {row.model_id: row for row in rows}
            found = await versions.several(tx, sorted(keys))
            entries = await versions.entries_of(tx, [row.manifest_digest for row in found])
            signed = await signatures.of_versions(tx, [(row.model_id, row.version) for row in found])
        loaded = [
            _version(row, owners[row.model_id], entries, signed=self._verified(row, entries, signed)) for row in found
        ]
        loaded.sort(key=lambda version: (version.model, version.version))
        content = [state.model_dump(mode="json") for state in (*shown, *loaded)]
        revision = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
        return contract.DesiredState(revision=revision, endpoints=shown, versions=loaded)

    def _verified(self, row: VersionRow, entries: list[EntryRow], signed: list[SignatureRow]) -> bool:
        own = [one for one in signed if (one.model_id, one.version) == (row.model_id, row.version)]
        files = files_of([entry for entry in entries if entry.manifest_digest == row.manifest_digest]) if own else {}
        return any(verifies(self._trusted, one, files) for one in own)


def _endpoint(row: EndpointRow, routes: tuple[Route, ...]) -> contract.DesiredEndpoint:
    shown = to_routes(routes)
    wanted = {route.version for route in shown}
    keep = [row.previous_version] if row.previous_version and row.previous_version not in wanted else []
    return contract.DesiredEndpoint.model_validate(
        {
            "name": row.name,
            "model": row.model,
            "namespace": row.namespace,
            "tenant": row.tenant,
            "feature_service": row.feature_service,
            "routes": [route.model_dump() for route in shown],
            "keep": keep,
        }
    )


def _version(row: VersionRow, owner: EndpointRow, entries: list[EntryRow], *, signed: bool) -> contract.DesiredVersion:
    return contract.DesiredVersion.model_validate(
        {
            "model": owner.model,
            "version": row.version,
            "manifest_digest": row.manifest_digest,
            "artifacts": [
                artifact.model_dump()
                for artifact in to_artifacts(row, [e for e in entries if e.manifest_digest == row.manifest_digest])
            ],
            "signature": row.signature,
            "status": row.status,
            "tenant": owner.tenant,
            "contributors": row.contributors,
            "signature_verified": signed,
            "rate_limit_per_minute": row.card.get("rate_limit_per_minute") or 1000.0,
            "allowed_namespaces": row.card.get("allowed_namespaces") or [],
        }
    )
