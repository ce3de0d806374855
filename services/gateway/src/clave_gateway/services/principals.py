"""Users, service accounts, applications and groups: made, listed, changed, and sent away.

A principal that is removed keeps its row, disabled: its name stands in the audit log and is given to nobody else. A
group is a name that principals carry and roles are bound to; it exists as long as it has a member or a role.
"""

from dataclasses import dataclass, replace

from clave_common.access.enforcement import Access
from clave_common.access.model import Caller, Resource
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.errors import AlreadyExists, NotFound

from clave_gateway.services.changes import record_change
from clave_gateway.services.delegation import held_by, home_of, require_may_give
from clave_gateway.services.snapshot import GROUP_PREFIX
from clave_gateway.storage import identity
from clave_gateway.storage.identity import PrincipalRow

_LISTED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Group:
    """A group, who is in it and which roles are bound to it."""

    name: str
    members: list[str]
    roles: list[str]


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

    async def create(self, caller: Caller, principal_id: str, *, groups: list[str]) -> PrincipalRow:
        """Make a principal in the caller's tenant, with no role but those of its groups.

        Raises:
            AlreadyExists: There is, or was, one of that name.
            PermissionDenied: The caller may not make principals, or not give what a group holds.
        """
        resource = _resource(principal_id, caller.tenant)
        decision = await self._access.require(caller, "admin:principal.write", resource)
        await self._require_groups(caller, principal_id, set(groups))
        kind = principal_id.partition(":")[0]
        row = PrincipalRow(principal_id, kind, caller.tenant, groups, False, caller.subject_id, self._clock.now())
        async with self._database.transaction() as tx:
            if await identity.find_principal(tx.session, principal_id) is not None:
                raise AlreadyExists(f"The name {principal_id} is taken; choose another.", code="principal_name_taken")
            await identity.add_principal(tx.session, row)
            await record_change(
                tx,
                self._clock,
                caller=caller,
                action="admin:principal.write",
                resource=resource.id,
                decision=decision,
                details={"change": "create", "kind": kind, "groups": groups},
            )
        return row

    async def read(self, caller: Caller, principal_id: str) -> PrincipalRow:
        """Read a principal of the caller's tenant.

        Raises:
            NotFound: There is none.
        """
        async with self._database.transaction() as tx:
            return _own(await identity.find_principal(tx.session, principal_id), caller, principal_id)

    async def remove(self, caller: Caller, principal_id: str) -> None:
        """Disable a principal, revoke its keys and take its roles back; services follow within two seconds.

        Raises:
            NotFound: No such principal in the caller's tenant.
        """
        async with self._database.transaction() as tx:
            found = _own(await identity.find_principal(tx.session, principal_id), caller, principal_id)
            resource = self._resource(found)
            decision = await self._access.require(caller, "admin:principal.write", resource)
            await identity.set_principal(tx.session, principal_id, groups=[], disabled=True)
            keys = await identity.revoke_keys_of(tx.session, principal_id, by=caller.subject_id, at=self._clock.now())
            taken = await identity.remove_bindings_of(tx.session, found.tenant, principal_id)
            await record_change(
                tx,
                self._clock,
                caller=caller,
                action="admin:principal.write",
                resource=resource.id,
                decision=decision,
                details={"change": "remove", "keys": keys, "bindings": taken},
            )

    async def groups(self, caller: Caller) -> list[Group]:
        """List the groups of the caller's tenant with their members and roles."""
        clauses = await self._access.visible(caller, "admin:binding.list")
        async with self._database.transaction() as tx:
            people = await identity.list_principals(tx.session, clauses, limit=_LISTED_MAX)
            held = await identity.list_bindings(tx.session, clauses, limit=_LISTED_MAX)
        members: dict[str, list[str]] = {}
        roles: dict[str, set[str]] = {}
        for person in people:
            for name in person.groups:
                members.setdefault(name, []).append(person.id)
        for binding in held:
            if binding.subject.startswith(GROUP_PREFIX):
                roles.setdefault(binding.subject.removeprefix(GROUP_PREFIX), set()).add(binding.role)
        return [
            Group(name, members.get(name, []), sorted(roles.get(name, set()))) for name in sorted({*members, *roles})
        ]

    async def remove_group(self, caller: Caller, name: str) -> None:
        """Take every member out of a group and its roles back.

        Raises:
            NotFound: The caller's tenant has no such group.
        """
        resource = Resource("principal", f"groups/{name}", {"tenant": caller.tenant})
        decision = await self._access.require(caller, "admin:principal.write", resource)
        async with self._database.transaction() as tx:
            members = await identity.members_of(tx.session, caller.tenant, name)
            for member in members:
                person = _own(await identity.find_principal(tx.session, member), caller, member)
                left = [group for group in person.groups if group != name]
                await identity.set_principal(tx.session, member, groups=left, disabled=None)
            taken = await identity.remove_bindings_of(tx.session, caller.tenant, f"{GROUP_PREFIX}{name}")
            if not members and not taken:
                raise NotFound(f"There is no group {name}.", code="group_not_found")
            await record_change(
                tx,
                self._clock,
                caller=caller,
                action="admin:principal.write",
                resource=resource.id,
                decision=decision,
                details={"change": "remove", "members": members, "bindings": taken},
            )

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
            found = _own(await identity.find_principal(tx.session, principal_id), caller, principal_id)
            resource = self._resource(found)
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
        if not joined:
            return
        async with self._database.transaction() as tx:
            held = await held_by(tx.session, self._access, [f"{GROUP_PREFIX}{group}" for group in joined])
        await require_may_give(self._access, caller, principal_id, held)

    def _resource(self, principal: PrincipalRow) -> Resource:
        home = home_of(self._access, principal.id, principal.groups, tenant=principal.tenant)
        return _resource(principal.id, home)


def _own(found: PrincipalRow | None, caller: Caller, principal_id: str) -> PrincipalRow:
    if found is None or found.tenant != caller.tenant:
        raise NotFound(f"There is no principal {principal_id}.", code="principal_not_found")
    return found


def _resource(principal_id: str, tenant: str) -> Resource:
    return Resource("principal", f"principals/{principal_id.replace(':', '/')}", {"tenant": tenant})
