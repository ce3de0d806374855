"""Queries on endpoints, who answered when, and what inference reports."""

from datetime import datetime
from typing import Any

from clave_common.access import Caller
from clave_common.access.filters import visible_to
from clave_common.database import Transaction
from sqlalchemy import literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.records import AssignmentRow, EndpointRow, ObservedRow, record, records
from clave_registry.storage.tables import endpoint_history, endpoints, observed


async def add(tx: Transaction, values: dict[str, Any]) -> EndpointRow | None:
    """Insert an endpoint; None when the name is taken."""
    statement = insert(endpoints).values(**values).on_conflict_do_nothing().returning(*endpoints.c)
    return record(EndpointRow, (await tx.session.execute(statement)).mappings().first())


async def find(tx: Transaction, name: str, *, lock: bool = False) -> EndpointRow | None:
    """Find an endpoint; with `lock`, hold it until the transaction ends."""
    statement = select(endpoints).where(endpoints.c.name == name)
    if lock:
        statement = statement.with_for_update()
    return record(EndpointRow, (await tx.session.execute(statement)).mappings().first())


async def page(
    tx: Transaction, *, tenant: str | None, after: str | None, limit: int, caller: Caller | None = None
) -> list[EndpointRow]:
    """List endpoints by name; of every tenant when none is given, and what a caller sees when one is."""
    statement = select(endpoints).order_by(endpoints.c.name).limit(limit)
    if caller is not None:
        path = literal("endpoints/") + endpoints.c.name
        statement = statement.where(visible_to(caller, tenant=endpoints.c.tenant, resource_id=path))
    if tenant is not None:
        statement = statement.where(endpoints.c.tenant == tenant)
    if after is not None:
        statement = statement.where(endpoints.c.name > after)
    return records(EndpointRow, (await tx.session.execute(statement)).mappings())


async def of_model(tx: Transaction, model_id: str) -> list[EndpointRow]:
    """List the endpoints that serve a model."""
    statement = select(endpoints).where(endpoints.c.model_id == model_id).order_by(endpoints.c.name)
    return records(EndpointRow, (await tx.session.execute(statement)).mappings())


async def change(tx: Transaction, name: str, *, at: datetime, **values: Any) -> EndpointRow:
    """Update an endpoint and its revision."""
    statement = (
        update(endpoints)
        .where(endpoints.c.name == name)
        .values(revision=endpoints.c.revision + 1, updated_at=at, **values)
        .returning(*endpoints.c)
    )
    return EndpointRow(**(await tx.session.execute(statement)).mappings().one())


async def assign(
    tx: Transaction,
    endpoint: EndpointRow,
    version: int,
    *,
    at: datetime,
    by: str,
    reason: str,
    rollout_id: str | None,
) -> None:
    """Close the span of the version that answered so far and open the next one's."""
    await tx.session.execute(
        update(endpoint_history)
        .where(endpoint_history.c.endpoint == endpoint.name, endpoint_history.c.until.is_(None))
        .values(until=at)
    )
    await tx.session.execute(
        insert(endpoint_history).values(
            endpoint=endpoint.name,
            model_id=endpoint.model_id,
            version=version,
            since=at,
            by=by,
            reason=reason,
            rollout_id=rollout_id,
        )
    )


async def assignments(
    tx: Transaction, name: str, *, at: datetime | None, before: int | None, limit: int
) -> list[AssignmentRow]:
    """List who answered, newest first; with `at`, only the one that answered then."""
    statement = select(endpoint_history).where(endpoint_history.c.endpoint == name)
    if at is not None:
        statement = statement.where(
            endpoint_history.c.since <= at,
            or_(endpoint_history.c.until.is_(None), endpoint_history.c.until > at),
        )
    if before is not None:
        statement = statement.where(endpoint_history.c.seq < before)
    statement = statement.order_by(endpoint_history.c.seq.desc()).limit(limit)
    return records(AssignmentRow, (await tx.session.execute(statement)).mappings())


async def report(
    tx: Transaction, instance: str, *, at: datetime, revision: str | None, versions: list[dict[str, Any]]
) -> None:
    """Keep what an inference process reports, over what it reported before."""
    values = {"at": at, "revision": revision, "versions": versions}
    statement = insert(observed).values(instance=instance, **values)
    await tx.session.execute(statement.on_conflict_do_update(index_elements=["instance"], set_=values))


async def reports(tx: Transaction, *, since: datetime) -> list[ObservedRow]:
    """List what inference processes reported since a time."""
    statement = select(observed).where(observed.c.at >= since).order_by(observed.c.instance)
    return records(ObservedRow, (await tx.session.execute(statement)).mappings())
