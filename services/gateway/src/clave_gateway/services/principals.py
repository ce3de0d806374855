"""Lists principals, changes their groups, disables them, and tells which roles somebody holds."""

from dataclasses import replace

from clave_common.access.enforcement import Access
from clave_common.access.model import Caller, Resource
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.errors import NotFound

from clave_gateway.services.changes import record_change
from clave_gateway.storage import identity
from clave_gateway.storage.identity import PrincipalRow


class PrincipalService:
    """Operations on principals."""

    def __init__(self, database: Database, access: Access, clock: Clock) -> None:
        self._database = database
        self._access = access
        self._clock = clock

    def roles_of(self, caller: Caller) -> list[str]:
        """List the roles bound to a caller or its groups, in any tenant it may act in."""
        data = self._access.policy_data()
        held = [*data.get("bindings", {}).get(caller.subject_id, [])]
        for group in caller.groups:
            held += data.get("group_bindings", {}).get(group, [])
        return sorted({binding["role"] for binding in held})

    async def list_principals(self, caller: Caller, *, limit: int) -> list[PrincipalRow]:
        """List the principals that the caller may see."""
        clauses = await self._access.visible(caller, "admin:binding.list")
        async with self._database.transaction() as tx:
            return await identity.list_principals(tx.session, clauses, limit=limit)

    async def change(
        self, caller: Caller, principal_id: str, *, groups: list[str] | None, disabled: bool | None
    ) -> PrincipalRow:
        """Change a principal; services follow within two seconds.

        A group is a bundle of roles, so putting somebody into one is giving those roles: the caller must be able to
        give each of them.

        Raises:
            NotFound: No such principal in the caller's tenant.
            PermissionDenied: The caller may not change principals, or not give what a group holds.
        """
        async with self._database.transaction() as tx:
            found = await identity.find_principal(tx.session, principal_id)
            if found is None or found.tenant != caller.tenant:
                raise NotFound(f"There is no principal {principal_id}.", code="principal_not_found")
            resource = Resource("principal", f"principals/{principal_id.replace(':', '/')}", {"tenant": found.tenant})
            decision = await self._access.require(caller, "admin:principal.write", resource)
            await self._require_groups(caller, principal_id, set(groups or []) - set(found.groups))
            await identity.set_principal(tx.session, principal_id, groups=groups, disabled=disabled)
            await record_change(
                tx,
                self._clock,
                caller=caller,
                action="admin:principal.write",
                resource=resource.id,
                decision=decision,
                details={"groups": groups, "disabled": disabled},
            )
        return replace(
            found,
            groups=found.groups if groups is None else groups,
            disabled=found.disabled if disabled is None else disabled,
        )

    async def _require_groups(self, caller: Caller, principal_id: str, joined: set[str]) -> None:
        bound = self._access.policy_data().get("group_bindings", {})
        for group in sorted(joined):
            for binding in bound.get(group, []):
                await self._access.require(
                    caller,
                    "admin:binding.create",
                    Resource(
                        "binding",
                        "bindings/new",
                        {"tenant": caller.tenant, "binding": {**binding, "subject": principal_id}},
                    ),
                )
