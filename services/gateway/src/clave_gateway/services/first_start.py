"""Makes an installation usable at its first start: the shipped policy in force, one administrator with one key.

There is no default password: the key is random, written to one 0600 file, and its place is printed.
"""

import os
from datetime import timedelta
from pathlib import Path

from clave_common.access.api_keys import new_api_key
from clave_common.access.model import INSTALLATION_TENANT, Caller
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.logs import get_logger

from clave_gateway.services.changes import record_change
from clave_gateway.signing import GatewaySigner
from clave_gateway.storage import identity, policies
from clave_gateway.storage.identity import KeyRow, PrincipalRow
from clave_gateway.storage.state import ensure_state, read_state

ADMIN = "user:admin"
SHIPPED = "shipped"
_ADMIN_KEY_LIFE = timedelta(days=365)
_log = get_logger(__name__)


class FirstStart:
    """Brings the database to a usable state; safe to run at every start."""

    def __init__(
        self, database: Database, signer: GatewaySigner, *, pepper: bytes, admin_key_file: Path, clock: Clock
    ) -> None:
        self._database = database
        self._signer = signer
        self._pepper = pepper
        self._admin_key_file = admin_key_file
        self._clock = clock

    async def run(self, shipped: PolicyBundle) -> None:
        """Put the shipped policy in force where none of the user's own is, and make the administrator."""
        async with self._database.transaction() as tx:
            await ensure_state(tx.session, self._clock.now())
            await self._ensure_policy(tx, shipped)
            await self._ensure_admin(tx)

    async def _ensure_policy(self, tx: Transaction, shipped: PolicyBundle) -> None:
        state = await read_state(tx.session)
        active = await policies.find_bundle(tx.session, state.active_bundle) if state.active_bundle else None
        digest = shipped.digest()
        if active is not None and (active.origin != SHIPPED or active.digest == digest):
            return
        now = self._clock.now()
        version = await policies.add_bundle(
            tx.session,
            digest=digest,
            modules=dict(shipped.modules),
            data=dict(shipped.data),
            origin=SHIPPED,
            note="came with this release",
            signature=self._signer.sign_text(digest),
            created_by=system_caller().subject_id,
            created_at=now,
            activated_by=system_caller().subject_id,
            activated_at=now,
        )
        await record_change(
            tx,
            self._clock,
            caller=system_caller(),
            action="policy:bundle.activate",
            resource=f"policies/{version}",
            decision=None,
            details={"digest": digest, "origin": SHIPPED},
            active_bundle=version,
            previous_bundle=state.active_bundle,
        )

    async def _ensure_admin(self, tx: Transaction) -> None:
        if await identity.find_principal(tx.session, ADMIN) is not None:
            return
        now = self._clock.now()
        await identity.add_principal(
            tx.session, PrincipalRow(ADMIN, "user", INSTALLATION_TENANT, [], False, system_caller().subject_id, now)
        )
        key = new_api_key()
        row = KeyRow(
            id=key.id,
            name="admin",
            principal_id=ADMIN,
            tenant=INSTALLATION_TENANT,
            mac=key.mac(self._pepper),
            scopes=["**"],
            replaces=None,
            created_by=system_caller().subject_id,
            created_at=now,
            expires_at=now + _ADMIN_KEY_LIFE,
        )
        await identity.add_key(tx.session, row)
        await record_change(
            tx,
            self._clock,
            caller=system_caller(),
            action="admin:key.create",
            resource=f"keys/{row.id}",
            decision=None,
            details={"principal": ADMIN, "scopes": row.scopes, "expires_at": row.expires_at.isoformat()},
        )
        write_admin_key(self._admin_key_file, key.text)
        _log.warning("admin_key_written", file=str(self._admin_key_file), principal=ADMIN)


def system_caller() -> Caller:
    """The gateway acting on its own, at first start only."""
    return Caller(
        subject_id="service:gateway",
        subject_type="service",
        tenant=INSTALLATION_TENANT,
        method="internal_jwt",
        expires_at=0.0,
    )


def write_admin_key(path: Path, text: str) -> None:
    """Write the key into a 0600 file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
