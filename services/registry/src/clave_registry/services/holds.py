"""Legal holds: while one is in force, its version or blob is not deleted and its bytes are not collected.

Holds are placed and lifted by people, with a reason; both stay in the table and in the audit log.
"""

from typing import Any

from clave_common.access import Caller
from clave_common.blobstore import checked_digest
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import AlreadyExists, FailedPrecondition, NotFound
from clave_common.pages import decode_token, encode_token
from sqlalchemy import ColumnElement, RowMapping

from clave_registry.services.governance import record_change, tenant_of, version_path
from clave_registry.services.versions import version_of
from clave_registry.storage import holds

_ACTION = "registry:hold.manage"


class UnderHold(FailedPrecondition):
    """A legal hold forbids it."""

    code = "under_hold"


async def require_not_held(tx: Transaction, model_id: str, *, name: str, version: int | None = None) -> None:
    """Refuse to delete what is held.

    Args:
        tx: The operation's transaction.
        model_id: The model.
        name: Its name, for the message.
        version: One version; any of them when absent.

    Raises:
        UnderHold: There is a hold.
    """
    held = await holds.held_versions(tx, model_id, version)
    if held:
        shown = ", ".join(str(number) for number in held[:10])
        raise UnderHold(f"Version {shown} of '{name}' is under legal hold; lift it first.", versions=held[:100])


class Holds:
    """Place, lift and list legal holds."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def place_on_version(self, caller: Caller, model: str, version: int, *, reason: str) -> None:
        """Hold a version with all of its files.

        Raises:
            NotFound: There is no such version.
            AlreadyExists: It is held.
        """
        async with self._database.transaction() as tx:
            row, found = await version_of(tx, caller, model, version, lock=True)
            target = {"model_id": row.id, "version": found.version}
            await self._place(tx, caller, version_path(model, version), target, reason)

    async def place_on_blob(self, caller: Caller, digest: str, *, reason: str) -> None:
        """Hold bytes by their digest, whether they are known by now or not.

        Raises:
            AlreadyExists: They are held.
        """
        async with self._database.transaction() as tx:
            await self._place(tx, caller, f"blobs/{digest}", {"digest": checked_digest(digest)}, reason)

    async def _place(self, tx: Transaction, caller: Caller, path: str, target: dict[str, Any], reason: str) -> None:
        facts = {"tenant": tenant_of(caller), "reason": reason, "by": caller.acting_for, "at": self._clock.now()}
        if not await holds.place(tx, {**target, **facts}):
            raise AlreadyExists(f"'{path}' is under legal hold already.", resource=path)
        await record_change(tx, caller, _ACTION, path, tenant=tenant_of(caller), hold="placed", reason=reason)

    async def lift_from_version(self, caller: Caller, model: str, version: int, *, reason: str) -> None:
        """Lift the hold on a version; NotFound when there is none."""
        async with self._database.transaction() as tx:
            row, _ = await version_of(tx, caller, model, version)
            await self._lift(tx, caller, version_path(model, version), holds.on_version(row.id, version), reason)

    async def lift_from_blob(self, caller: Caller, digest: str, *, reason: str) -> None:
        """Lift the hold on bytes; NotFound when there is none."""
        async with self._database.transaction() as tx:
            await self._lift(tx, caller, f"blobs/{digest}", holds.on_blob(checked_digest(digest)), reason)

    async def _lift(self, tx: Transaction, caller: Caller, path: str, of: ColumnElement[bool], reason: str) -> None:
        tenant, now = tenant_of(caller), self._clock.now()
        if not await holds.lift(tx, tenant, of=of, by=caller.acting_for, at=now, reason=reason):
            raise NotFound(f"'{path}' is under no legal hold.", code="hold_not_found", resource=path)
        await record_change(tx, caller, _ACTION, path, tenant=tenant, hold="lifted", reason=reason)

    async def list_page(self, caller: Caller, *, size: int, token: str | None) -> tuple[list[RowMapping], str]:
        """List holds, lifted ones too, newest first, and the token of the next page."""
        query = f"holds:{tenant_of(caller)}"
        before = int(decode_token(token, query=query, kinds=(int,))[0]) if token else None
        async with self._database.transaction() as tx:
            found = await holds.page(tx, tenant_of(caller), before=before, limit=size + 1)
        following = encode_token([found[size - 1]["seq"]], query=query) if len(found) > size else ""
        return found[:size], following
