"""Turns what a caller may see into SQL: clauses of the policy become SQLAlchemy expressions with bound parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, false, or_, true

from clave_common.access.model import Caller

_ANY = "*"
_ALL_RESOURCES = "**"
_BELOW = "/**"


def visible_to(
    caller: Caller,
    *,
    tenant: ColumnElement[str] | None = None,
    resource_id: ColumnElement[str] | None = None,
    namespace: ColumnElement[str] | None = None,
) -> ColumnElement[bool]:
    """Build the condition of a list query from what a listing route's caller sees; nothing where it sees nothing."""
    return visible_rows(caller.sees or (), tenant=tenant, resource_id=resource_id, namespace=namespace)


def visible_row(caller: Caller, resource_id: str) -> bool:
    """Tell whether one row of a list may be shown, where the list is no query."""
    return any(_covers(str(pattern), resource_id) for clause in caller.sees or () for pattern in clause["resources"])


def _covers(pattern: str, resource_id: str) -> bool:
    if pattern.endswith(_BELOW):
        return resource_id.startswith(pattern.removesuffix("**"))
    return pattern in {_ALL_RESOURCES, resource_id}


def visible_rows(
    clauses: Sequence[Mapping[str, Any]],
    *,
    tenant: ColumnElement[str] | None,
    resource_id: ColumnElement[str] | None = None,
    namespace: ColumnElement[str] | None = None,
) -> ColumnElement[bool]:
    """Build the condition of a list query.

    Args:
        clauses: From `Access.visible`; any one lets a row through, none lets nothing through.
        tenant: Column that holds the row's tenant; None where rows belong to the installation.
        resource_id: Expression of the row's canonical path, where resource patterns matter.
        namespace: Column of the row's namespace, for namespaced actions.
    """
    parts = [_clause(clause, tenant=tenant, resource_id=resource_id, namespace=namespace) for clause in clauses]
    return or_(*parts) if parts else false()


def _clause(
    clause: Mapping[str, Any],
    *,
    tenant: ColumnElement[str] | None,
    resource_id: ColumnElement[str] | None,
    namespace: ColumnElement[str] | None,
) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = []
    if clause["tenant"] is not None and tenant is not None:
        conditions.append(tenant == clause["tenant"])
    if namespace is not None and _ANY not in clause["namespaces"]:
        conditions.append(namespace.in_(list(clause["namespaces"])))
    if _ALL_RESOURCES not in clause["resources"]:
        conditions.append(_resources(clause["resources"], resource_id))
    return and_(true(), *conditions)


def _resources(patterns: Sequence[str], resource_id: ColumnElement[str] | None) -> ColumnElement[bool]:
    if resource_id is None:
        return false()
    exact = [pattern for pattern in patterns if not pattern.endswith(_BELOW)]
    below = [pattern.removesuffix("**") for pattern in patterns if pattern.endswith(_BELOW)]
    return or_(
        resource_id.in_(exact) if exact else false(),
        *(resource_id.startswith(prefix, autoescape=True) for prefix in below),
    )
