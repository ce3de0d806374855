"""Makes, lists, rotates and revokes API keys."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from clave_common.access.api_keys import ApiKey, new_api_key
from clave_common.access.enforcement import Access
from clave_common.access.model import Caller, Decision, Resource
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import FailedPrecondition, NotFound
from clave_contracts.gateway import KeyCreate

from clave_gateway.domain.roles import permissions_of
from clave_gateway.services.bindings import BindingService
from clave_gateway.services.changes import record_change
from clave_gateway.services.delegation import PLATFORM, Binding, held_by, home_of, require_may_give
from clave_gateway.services.snapshot import GROUP_PREFIX
from clave_gateway.storage import identity
from clave_gateway.storage.identity import BindingRow, KeyRow, PrincipalRow

_EVERYTHING = "**"
_ANY = "*"
ACTIVE_KEYS_MAX = 50


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key in the clear, shown once."""

    row: KeyRow
    secret: ApiKey
    role: str


class TooManyKeys(FailedPrecondition):
    """A principal has as many working keys as it may."""

    code = "too_many_keys"


class KeyService:
    """Operations on API keys."""

    def __init__(
        self, database: Database, access: Access, bindings: BindingService, *, pepper: bytes, clock: Clock
    ) -> None:
        self._database = database
        self._access = access
        self._bindings = bindings
        self._pepper = pepper
        self._clock = clock

    async def create(self, caller: Caller, request: KeyCreate) -> MadeKey:
        """Make a key for a principal; a new principal, or one without the role, is bound to it.

        Raises:
            InvalidArgument: Unknown role.
            PermissionDenied: The caller may not make keys, or not ones that may do this much.
            TooManyKeys: The principal has enough keys.
        """
        principal_id = f"{request.kind}:{request.name}"
        principal, bound, holds = await self._found(caller, principal_id)
        home = home_of(self._access, principal_id, principal.groups if principal else (), tenant=caller.tenant)
        scopes, decision = await self._granted_scopes(caller, request, home)
        await self._require_reach(caller, principal_id, holds)
        grant: tuple[BindingRow, Decision] | None = None
        if not self._bound(bound, request):
            grant = await self._bindings.prepare(
                caller,
                subject=principal_id,
                role=request.role,
                namespaces=request.namespaces,
                resources=request.resources,
            )
        now = self._clock.now()
        async with self._database.transaction() as tx:
            if principal is None:
                fresh = PrincipalRow(principal_id, request.kind, caller.tenant, [], False, caller.subject_id, now)
                if not await identity.add_principal(tx.session, fresh):
                    raise _name_taken(principal_id)
            if grant is not None:
                await self._bindings.add(tx, caller, *grant)
            made = self._made(
                caller,
                name=request.name,
                principal_id=principal_id,
                scopes=scopes,
                expires_at=now + timedelta(seconds=request.expires_in_s),
            )
            await self._add(tx, caller, made, decision)
        return MadeKey(made[0], made[1], request.role)

    async def _granted_scopes(self, caller: Caller, request: KeyCreate, home: str) -> tuple[list[str], Decision]:
        """Ask for the scopes as they stand; a key 'for everything its role may' falls back to the role's own list."""
        wanted = [request.scopes]
        if request.scopes == [_EVERYTHING]:
            roles = self._access.policy_data().get("roles", {})
            wanted.append(permissions_of(roles, request.role) or [_EVERYTHING])
        for scopes in wanted[:-1]:
            decision = await self._access.check(caller, "admin:key.create", _new_key(home, scopes))
            if decision.allow:
                return scopes, decision
        decision = await self._access.require(caller, "admin:key.create", _new_key(home, wanted[-1]))
        return wanted[-1], decision

    async def _require_reach(self, caller: Caller, principal_id: str, holds: list[Binding]) -> None:
        """Insist that a key for somebody else gives nobody more than its maker holds.

        What is held for the whole platform was asked about already: such a principal's keys belong to no tenant.
        """
        if principal_id != caller.subject_id:
            bounded = [binding for binding in holds if binding["tenant"] != PLATFORM]
            await require_may_give(self._access, caller, principal_id, bounded)

    async def _found(
        self, caller: Caller, principal_id: str
    ) -> tuple[PrincipalRow | None, list[BindingRow], list[Binding]]:
        """Find a principal, its own bindings, and all that it holds, its groups' included."""
        async with self._database.transaction() as tx:
            principal = await identity.find_principal(tx.session, principal_id)
            if principal is not None and principal.tenant != caller.tenant:
                raise _name_taken(principal_id)
            if await identity.count_active_keys(tx.session, principal_id, self._clock.now()) >= ACTIVE_KEYS_MAX:
                raise TooManyKeys(f"{principal_id} has {ACTIVE_KEYS_MAX} working keys; revoke one first.")
            bound = [row for row in await identity.all_bindings(tx.session) if row.subject == principal_id]
            holds = await held_by(tx.session, self._access, _speaks_for(principal_id, principal))
        return principal, bound, holds

    @staticmethod
    def _bound(held: list[BindingRow], request: KeyCreate) -> bool:
        return any(
            row.role == request.role
            and (_ANY in row.namespaces or set(request.namespaces) <= set(row.namespaces))
            and sorted(row.resources) == sorted(request.resources)
            for row in held
        )

    def _made(
        self, caller: Caller, *, name: str, principal_id: str, scopes: list[str], expires_at: datetime
    ) -> tuple[KeyRow, ApiKey]:
        secret = new_api_key()
        row = KeyRow(
            id=secret.id,
            name=name,
            principal_id=principal_id,
            tenant=caller.tenant,
            mac=secret.mac(self._pepper),
            scopes=scopes,
            replaces=None,
            created_by=caller.subject_id,
            created_at=self._clock.now(),
            expires_at=expires_at,
        )
        return row, secret

    async def _add(
        self, tx: Transaction, caller: Caller, made: tuple[KeyRow, ApiKey], decision: Decision | None
    ) -> None:
        row = made[0]
        await identity.add_key(tx.session, row)
        await record_change(
            tx,
            self._clock,
            caller=caller,
            action="admin:key.create",
            resource=f"keys/{row.id}",
            decision=decision,
            details={
                "principal": row.principal_id,
                "scopes": row.scopes,
                "expires_at": row.expires_at.isoformat(),
                "replaces": row.replaces,
            },
        )

    async def list_keys(self, caller: Caller, *, after: tuple[datetime, str] | None, limit: int) -> list[KeyRow]:
        """List the keys that the caller may see, newest first."""
        clauses = await self._access.visible(caller, "admin:key.list")
        async with self._database.transaction() as tx:
            return await identity.list_keys(tx.session, clauses, after=after, limit=limit)

    async def revoke(self, caller: Caller, key_id: str) -> None:
        """Revoke a key; every service refuses it within two seconds. Revoking it again changes nothing.

        Raises:
            NotFound: No such key in the caller's tenant.
        """
        async with self._database.transaction() as tx:
            key, home, _ = await self._own(tx, caller, key_id)
            decision = await self._access.require(
                caller, "admin:key.revoke", Resource("key", f"keys/{key_id}", {"tenant": home})
            )
            if key.revoked_at is not None:
                return
            await identity.revoke_key(tx.session, key_id, by=caller.subject_id, at=self._clock.now())
            await record_change(
                tx,
                self._clock,
                caller=caller,
                action="admin:key.revoke",
                resource=f"keys/{key_id}",
                decision=decision,
                details={"principal": key.principal_id},
            )

    async def rotate(self, caller: Caller, key_id: str) -> MadeKey:
        """Make a successor with the same rights and life; the old key works on until it is revoked or expires.

        Raises:
            NotFound: No such key in the caller's tenant.
            FailedPrecondition: The key is revoked.
        """
        async with self._database.transaction() as tx:
            key, home, holds = await self._own(tx, caller, key_id)
            decision = await self._access.require(caller, "admin:key.create", _new_key(home, key.scopes))
            await self._require_reach(caller, key.principal_id, holds)
            if key.revoked_at is not None:
                raise FailedPrecondition("A revoked key has no successor; make a new key.", code="key_revoked")
            life = key.expires_at - key.created_at
            row, secret = self._made(
                caller,
                name=key.name,
                principal_id=key.principal_id,
                scopes=key.scopes,
                expires_at=self._clock.now() + life,
            )
            row = replace(row, replaces=key_id)
            await self._add(tx, caller, (row, secret), decision)
        return MadeKey(row, secret, "")

    async def _own(self, tx: Transaction, caller: Caller, key_id: str) -> tuple[KeyRow, str, list[Binding]]:
        """Find a key, where its principal is administered, and what it holds."""
        key = await identity.find_key(tx.session, key_id, for_update=True)
        if key is None or key.tenant != caller.tenant:
            raise NotFound(f"There is no key {key_id}.", code="key_not_found")
        principal = await identity.find_principal(tx.session, key.principal_id)
        home = home_of(self._access, key.principal_id, principal.groups if principal else (), tenant=key.tenant)
        return key, home, await held_by(tx.session, self._access, _speaks_for(key.principal_id, principal))


def _speaks_for(principal_id: str, principal: PrincipalRow | None) -> list[str]:
    """Name those whose roles a principal's key carries: itself and its groups."""
    return [principal_id, *(f"{GROUP_PREFIX}{group}" for group in (principal.groups if principal else ()))]


def _name_taken(principal_id: str) -> FailedPrecondition:
    return FailedPrecondition(f"The name {principal_id} is taken; choose another.", code="principal_name_taken")


def _new_key(home: str, scopes: list[str]) -> Resource:
    return Resource("key", "keys/new", {"tenant": home, "scopes": scopes})
