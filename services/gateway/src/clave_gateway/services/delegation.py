"""What somebody holds, and who may therefore hand out, change or take away what speaks for them.

A key speaks for its principal, with all that the principal holds. So whoever makes one for another must be able to give
each of these roles where it is held: scopes alone say nothing of environments and resources. Whoever holds a role of
the whole platform is changed by nobody who holds none: such a principal, and its keys, belong to no tenant.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from clave_common.access.enforcement import Access
from clave_common.access.model import Caller, Resource
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_gateway.services.snapshot import GROUP_PREFIX
from clave_gateway.storage import identity
from clave_gateway.storage.identity import BindingRow

PLATFORM = "*"
"""The tenant of what belongs to no tenant: only a role bound for the whole platform reaches it."""
Binding = Mapping[str, Any]


async def held_by(session: AsyncConnection, access: Access, subjects: Iterable[str]) -> list[Binding]:
    """List what subjects hold by themselves: by the policy in force, and by bindings too new to be in it.

    Args:
        session: Of the running transaction.
        access: Gives the policy in force.
        subjects: Ids of principals, and groups as ``group:<name>``.
    """
    wanted, data = set(subjects), access.policy_data()
    known = [binding for subject in sorted(wanted) for binding in _in_policy(data, subject)]
    newest = [shape_of(row) for row in await identity.all_bindings(session) if row.subject in wanted]
    return [*known, *(binding for binding in newest if binding not in known)]


async def require_may_give(access: Access, caller: Caller, to: str, held: Iterable[Binding]) -> None:
    """Insist that a caller could give each of some bindings.

    Raises:
        PermissionDenied: One holds more than the caller does there, or with this credential.
    """
    for binding in held:
        resource = Resource("binding", "bindings/new", {"tenant": caller.tenant, "binding": {**binding, "subject": to}})
        await access.require(caller, "admin:binding.create", resource)


def home_of(access: Access, principal_id: str, groups: Iterable[str], *, tenant: str) -> str:
    """Name the tenant in which a principal is administered: none, for a holder of a role of the whole platform."""
    data = access.policy_data()
    subjects = (principal_id, *(f"{GROUP_PREFIX}{group}" for group in groups))
    is_everywhere = any(binding.get("tenant") == PLATFORM for one in subjects for binding in _in_policy(data, one))
    return PLATFORM if is_everywhere else tenant


def shape_of(row: BindingRow) -> dict[str, Any]:
    """Write a binding as the policy's data do."""
    return {"role": row.role, "tenant": row.tenant, "namespaces": row.namespaces, "resources": row.resources}


def _in_policy(data: Mapping[str, Any], subject: str) -> list[Binding]:
    name = "group_bindings" if subject.startswith(GROUP_PREFIX) else "bindings"
    return list(data.get(name, {}).get(subject.removeprefix(GROUP_PREFIX), []))
