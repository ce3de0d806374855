"""Builds the access snapshot: active keys, the policy in force, and the data it decides by.

The data are the bundle's, with what the database adds: bindings, disabled principals, lockdown.
"""

from types import MappingProxyType
from typing import Any

from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import KeyRecord, Snapshot, encode_snapshot
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.errors import Unavailable
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_gateway.signing import GatewaySigner
from clave_gateway.storage import identity
from clave_gateway.storage.identity import BindingRow
from clave_gateway.storage.policies import BundleRow, find_bundle
from clave_gateway.storage.state import AccessState, read_revision, read_state

GROUP_PREFIX = "group:"


class SnapshotService:
    """Gives snapshots to services and to the gateway itself; the newest one is kept in memory."""

    def __init__(self, database: Database, signer: GatewaySigner, clock: Clock) -> None:
        self._database = database
        self._signer = signer
        self._clock = clock
        self._newest: tuple[int, bytes] | None = None

    async def fetch(self, revision: int | None) -> bytes | None:
        """Return the signed snapshot, or None when the given revision is still the newest.

        Raises:
            Unavailable: Postgres is away, or the policy in force fails its own signature or digest.
        """
        async with self._database.transaction() as tx:
            newest = await read_revision(tx.session)
            if newest == revision:
                return None
            if self._newest is None or self._newest[0] != newest:
                snapshot = await self._build(tx.session)
                self._newest = (snapshot.revision, encode_snapshot(snapshot, self._signer.jwk))
            return self._newest[1]

    async def _build(self, session: AsyncConnection) -> Snapshot:
        state = await read_state(session)
        bundle = await find_bundle(session, state.active_bundle or 0)
        if bundle is None or not self._signer.verifies_text(bundle.signature, bundle.digest):
            raise Unavailable("There is no policy with a good signature to put in force.", code="policy_unsigned")
        if PolicyBundle(modules=bundle.modules, data=bundle.data).digest() != bundle.digest:
            raise Unavailable(f"Policy {bundle.version} was altered after it was signed.", code="policy_altered")
        now = self._clock.now()
        records = [
            KeyRecord(
                id=key.id,
                mac=key.mac,
                subject_id=key.principal_id,
                tenant=key.tenant,
                groups=tuple(groups),
                scopes=tuple(key.scopes),
                expires_at=key.expires_at.timestamp(),
            )
            for key, groups in await identity.active_keys(session, now)
        ]
        return Snapshot(
            revision=state.revision,
            issued_at=now.timestamp(),
            keys=MappingProxyType({record.id: record for record in records}),
            bundle=PolicyBundle(
                modules=bundle.modules,
                data=data_in_force(
                    bundle,
                    state,
                    await identity.all_bindings(session),
                    await identity.disabled_principals(session),
                ),
            ),
        )


def data_in_force(
    bundle: BundleRow, state: AccessState, bindings: list[BindingRow], disabled: list[str]
) -> dict[str, Any]:
    """Merge a bundle's data with what the database adds."""
    data = dict(bundle.data)
    merged: dict[str, dict[str, list[Any]]] = {
        name: {subject: list(held) for subject, held in data.get(name, {}).items()}
        for name in ("bindings", "group_bindings")
    }
    for binding in bindings:
        name, subject = "bindings", binding.subject
        if subject.startswith(GROUP_PREFIX):
            name, subject = "group_bindings", subject.removeprefix(GROUP_PREFIX)
        merged[name].setdefault(subject, []).append(
            {
                "role": binding.role,
                "tenant": binding.tenant,
                "namespaces": binding.namespaces,
                "resources": binding.resources,
            }
        )
    return {
        **data,
        **merged,
        "version": f"{data.get('version', 'unversioned')}+{bundle.version}",
        "disabled_subjects": sorted({*data.get("disabled_subjects", []), *disabled}),
        "lockdown": bool(data.get("lockdown", False)) or state.lockdown,
    }
