"""Queries on principals, API keys and bindings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clave_common.access.filters import visible_rows
from sqlalchemy import and_, any_, delete, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_gateway.storage.tables import api_keys, bindings, principals

Clauses = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class PrincipalRow:
    """A person, application, service account or service."""

    id: str
    kind: str
    tenant: str
    groups: list[str]
    disabled: bool
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key; its secret exists only as a MAC."""

    id: str
    name: str
    principal_id: str
    tenant: str
    mac: str
    scopes: list[str]
    replaces: str | None
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BindingRow:
    """A role, given to a subject or group, somewhere."""

    id: str
    subject: str
    role: str
    tenant: str
    namespaces: list[str]
    resources: list[str]
    created_by: str
    created_at: datetime


async def find_principal(session: AsyncConnection, principal_id: str) -> PrincipalRow | None:
    """Find a principal."""
    row = (await session.execute(select(principals).where(principals.c.id == principal_id))).one_or_none()
    return PrincipalRow(**row._asdict()) if row else None


async def add_principal(session: AsyncConnection, principal: PrincipalRow) -> bool:
    """Add a principal; False where one of that name exists, which is left as it is."""
    statement = insert(principals).values(_fields(principal)).on_conflict_do_nothing().returning(principals.c.id)
    return (await session.execute(statement)).first() is not None


async def set_principal(
    session: AsyncConnection, principal_id: str, *, groups: list[str] | None, disabled: bool | None
) -> None:
    """Change a principal's groups or whether it is disabled."""
    changes: dict[str, object] = {}
    if groups is not None:
        changes["groups"] = groups
    if disabled is not None:
        changes["disabled"] = disabled
    if changes:
        await session.execute(update(principals).where(principals.c.id == principal_id).values(**changes))


async def list_principals(session: AsyncConnection, clauses: Clauses, *, limit: int) -> list[PrincipalRow]:
    """List the principals that a caller may see, by id."""
    query = (
        select(principals)
        .where(visible_rows(clauses, tenant=principals.c.tenant, resource_id=literal("principals")))
        .order_by(principals.c.id)
        .limit(limit)
    )
    return [PrincipalRow(**row._asdict()) for row in await session.execute(query)]


async def add_key(session: AsyncConnection, key: KeyRow) -> None:
    """Add a key."""
    await session.execute(insert(api_keys).values(_fields(key)))


async def find_key(session: AsyncConnection, key_id: str, *, for_update: bool = False) -> KeyRow | None:
    """Find a key."""
    query = select(api_keys).where(api_keys.c.id == key_id)
    row = (await session.execute(query.with_for_update() if for_update else query)).one_or_none()
    return KeyRow(**row._asdict()) if row else None


async def list_keys(
    session: AsyncConnection, clauses: Clauses, *, after: tuple[datetime, str] | None, limit: int
) -> list[KeyRow]:
    """List the keys that a caller may see, newest first."""
    query = select(api_keys).where(
        visible_rows(clauses, tenant=api_keys.c.tenant, resource_id=literal("keys/") + api_keys.c.id)
    )
    if after is not None:
        query = query.where(tuple_(api_keys.c.created_at, api_keys.c.id) < tuple_(literal(after[0]), literal(after[1])))
    query = query.order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()).limit(limit)
    return [KeyRow(**row._asdict()) for row in await session.execute(query)]


async def revoke_key(session: AsyncConnection, key_id: str, *, by: str, at: datetime) -> None:
    """Revoke a key."""
    await session.execute(update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=at, revoked_by=by))


async def revoke_keys_of(session: AsyncConnection, principal_id: str, *, by: str, at: datetime) -> list[str]:
    """Revoke every working key of a principal; gives their ids."""
    statement = (
        update(api_keys)
        .where(api_keys.c.principal_id == principal_id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=at, revoked_by=by)
        .returning(api_keys.c.id)
    )
    return sorted((await session.execute(statement)).scalars())


async def members_of(session: AsyncConnection, tenant: str, group: str) -> list[str]:
    """List the principals of a tenant that are in a group, and hold their rows."""
    query = (
        select(principals.c.id)
        .where(principals.c.tenant == tenant, literal(group) == any_(principals.c.groups))
        .order_by(principals.c.id)
        .with_for_update()
    )
    return list((await session.execute(query)).scalars())


async def count_active_keys(session: AsyncConnection, principal_id: str, now: datetime) -> int:
    """Count a principal's keys that work."""
    query = select(func.count()).where(api_keys.c.principal_id == principal_id, _active(now))
    return int((await session.execute(query)).scalar_one())


async def active_keys(session: AsyncConnection, now: datetime) -> list[tuple[KeyRow, list[str]]]:
    """List every key that works, with the groups of its principal."""
    query = (
        select(api_keys, principals.c.groups)
        .join(principals, principals.c.id == api_keys.c.principal_id)
        .where(_active(now))
        .order_by(api_keys.c.id)
    )
    found = []
    for row in await session.execute(query):
        fields = row._asdict()
        groups = fields.pop("groups")
        found.append((KeyRow(**fields), groups))
    return found


async def note_use(session: AsyncConnection, used: Mapping[str, datetime]) -> None:
    """Record when keys were last used."""
    for key_id, at in sorted(used.items()):
        await session.execute(
            update(api_keys)
            .where(api_keys.c.id == key_id, or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < at))
            .values(last_used_at=at)
        )


async def disabled_principals(session: AsyncConnection) -> list[str]:
    """List the ids of disabled principals."""
    query = select(principals.c.id).where(principals.c.disabled).order_by(principals.c.id)
    return list((await session.execute(query)).scalars())


async def add_binding(session: AsyncConnection, binding: BindingRow) -> None:
    """Add a binding."""
    await session.execute(insert(bindings).values(_fields(binding)))


async def find_binding(session: AsyncConnection, binding_id: str) -> BindingRow | None:
    """Find a binding."""
    row = (await session.execute(select(bindings).where(bindings.c.id == binding_id))).one_or_none()
    return BindingRow(**row._asdict()) if row else None


async def remove_binding(session: AsyncConnection, binding_id: str) -> None:
    """Remove a binding."""
    await session.execute(delete(bindings).where(bindings.c.id == binding_id))


async def remove_bindings_of(session: AsyncConnection, tenant: str, subject: str) -> list[str]:
    """Take every role of a subject back that a tenant gave; gives the bindings' ids."""
    statement = (
        delete(bindings).where(bindings.c.tenant == tenant, bindings.c.subject == subject).returning(bindings.c.id)
    )
    return sorted((await session.execute(statement)).scalars())


async def list_bindings(session: AsyncConnection, clauses: Clauses, *, limit: int) -> list[BindingRow]:
    """List the bindings that a caller may see, newest first."""
    query = (
        select(bindings)
        .where(visible_rows(clauses, tenant=bindings.c.tenant, resource_id=literal("bindings")))
        .order_by(bindings.c.created_at.desc(), bindings.c.id)
        .limit(limit)
    )
    return [BindingRow(**row._asdict()) for row in await session.execute(query)]


async def all_bindings(session: AsyncConnection) -> list[BindingRow]:
    """List every binding, oldest first (for the snapshot)."""
    query = select(bindings).order_by(bindings.c.created_at, bindings.c.id)
    return [BindingRow(**row._asdict()) for row in await session.execute(query)]


def _active(now: datetime) -> Any:
    return and_(api_keys.c.revoked_at.is_(None), api_keys.c.expires_at > now)


def _fields(row: PrincipalRow | KeyRow | BindingRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}
