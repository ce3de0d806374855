"""Queries on alerts."""

from datetime import datetime
from typing import Any

from clave_common.access import Caller
from clave_common.access.filters import visible_to
from clave_common.database import Transaction
from clave_common.ids import new_id
from sqlalchemy import exists, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from clave_monitor.storage.records import Key
from clave_monitor.storage.tables import alerts, endpoints


async def raise_or_count(
    tx: Transaction, key: Key, *, at: datetime, name: str, **values: Any
) -> tuple[dict[str, Any], bool]:
    """Raise an alert, or count it once more while it stands; a snooze that is over opens it again.

    Returns:
        The alert, and whether somebody should be told: it is new, or its snooze is over.
    """
    standing = await _standing(tx, key, name)
    if standing is None:
        row = {"id": new_id("alert"), "state": "open", "raised_at": at, "last_at": at, "name": name}
        statement = insert(alerts).values(**key.values(), **row, **values).returning(alerts)
        return dict((await tx.session.execute(statement)).mappings().one()), True
    until = standing["snoozed_until"]
    over = standing["state"] == "snoozed" and until is not None and until <= at
    changed = values | {"last_at": at, "count": alerts.c.count + 1}
    if over:
        changed |= {"state": "open", "snoozed_until": None}
    return await change(tx, standing["id"], **changed), over


async def _standing(tx: Transaction, key: Key, name: str) -> dict[str, Any] | None:
    statement = select(alerts).where(
        alerts.c.endpoint == key.endpoint,
        alerts.c.model == key.model,
        alerts.c.model_version == key.model_version,
        alerts.c.name == name,
        alerts.c.state != "resolved",
    )
    row = (await tx.session.execute(statement)).mappings().first()
    return None if row is None else dict(row)


async def resolve(tx: Transaction, key: Key, name: str, *, at: datetime) -> None:
    """Close an alert whose cause is gone."""
    standing = await _standing(tx, key, name)
    if standing is not None:
        await change(tx, standing["id"], state="resolved", last_at=at)


async def resolve_departed(tx: Transaction, *, at: datetime) -> None:
    """Close the alerts of versions that left live traffic."""
    still_live = exists().where(
        endpoints.c.name == alerts.c.endpoint,
        endpoints.c.live_model == alerts.c.model,
        endpoints.c.live_version == alerts.c.model_version,
    )
    known = exists().where(endpoints.c.name == alerts.c.endpoint, endpoints.c.live_version.is_not(None))
    statement = update(alerts).where(alerts.c.state != "resolved", known, ~still_live)
    await tx.session.execute(statement.values(state="resolved", last_at=at))


async def find(tx: Transaction, alert_id: str) -> dict[str, Any] | None:
    """Find an alert and hold it until the transaction ends."""
    statement = select(alerts).where(alerts.c.id == alert_id).with_for_update()
    row = (await tx.session.execute(statement)).mappings().first()
    return None if row is None else dict(row)


async def change(tx: Transaction, alert_id: str, **values: Any) -> dict[str, Any]:
    """Update an alert."""
    statement = update(alerts).where(alerts.c.id == alert_id).values(**values).returning(alerts)
    return dict((await tx.session.execute(statement)).mappings().one())


async def page(
    tx: Transaction,
    caller: Caller,
    *,
    endpoint: str | None,
    state: str | None,
    position: tuple[datetime, str] | None,
    limit: int,
) -> list[dict[str, Any]]:
    """List alerts of the endpoints that a listing route's caller sees, latest first."""
    statement = select(alerts).where(visible_to(caller, resource_id=literal("endpoints/") + alerts.c.endpoint))
    if endpoint is not None:
        statement = statement.where(alerts.c.endpoint == endpoint)
    if state is not None:
        statement = statement.where(alerts.c.state == state)
    if position is not None:
        statement = statement.where(tuple_(alerts.c.last_at, alerts.c.id) < tuple_(*position))
    statement = statement.order_by(alerts.c.last_at.desc(), alerts.c.id.desc()).limit(limit)
    return [dict(row) for row in (await tx.session.execute(statement)).mappings()]
