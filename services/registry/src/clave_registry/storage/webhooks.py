"""Queries on webhooks and their deliveries."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clave_common.database import Database, Transaction
from sqlalchemy import delete, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.records import DeliveryRow, WebhookRow, record, records
from clave_registry.storage.tables import webhook_deliveries, webhooks


async def add(tx: Transaction, values: dict[str, Any]) -> WebhookRow:
    """Insert a webhook."""
    statement = insert(webhooks).values(**values).returning(*webhooks.c)
    return WebhookRow(**(await tx.session.execute(statement)).mappings().one())


async def find(tx: Transaction, tenant: str, webhook_id: str, *, lock: bool = False) -> WebhookRow | None:
    """Find a webhook of a tenant; with `lock`, hold it until the transaction ends."""
    statement = select(webhooks).where(webhooks.c.id == webhook_id, webhooks.c.tenant == tenant)
    if lock:
        statement = statement.with_for_update()
    return record(WebhookRow, (await tx.session.execute(statement)).mappings().first())


async def several(tx: Transaction, ids: Sequence[str]) -> list[WebhookRow]:
    """Find webhooks by id, of any tenant."""
    statement = select(webhooks).where(webhooks.c.id.in_(list(ids)))
    return records(WebhookRow, (await tx.session.execute(statement)).mappings())


async def page(tx: Transaction, tenant: str, *, after: str | None, limit: int) -> list[WebhookRow]:
    """List a tenant's webhooks by id."""
    statement = select(webhooks).where(webhooks.c.tenant == tenant).order_by(webhooks.c.id).limit(limit)
    if after is not None:
        statement = statement.where(webhooks.c.id > after)
    return records(WebhookRow, (await tx.session.execute(statement)).mappings())


async def change(tx: Transaction, webhook_id: str, *, at: datetime, **values: Any) -> WebhookRow:
    """Update a webhook and its revision."""
    statement = (
        update(webhooks)
        .where(webhooks.c.id == webhook_id)
        .values(revision=webhooks.c.revision + 1, updated_at=at, **values)
        .returning(*webhooks.c)
    )
    return WebhookRow(**(await tx.session.execute(statement)).mappings().one())


async def remove(tx: Transaction, webhook_id: str) -> None:
    """Delete a webhook with its deliveries."""
    await tx.session.execute(delete(webhooks).where(webhooks.c.id == webhook_id))


async def any_listens(database: Database) -> bool:
    """Tell whether anybody wants any event at all; most installations have no webhook."""
    (row,) = await database.run("select exists (select 1 from webhooks where enabled) as listens", {})
    return bool(row["listens"])


async def listening(tx: Transaction, tenant: str, *, event: str, model: str | None) -> list[WebhookRow]:
    """List the webhooks that want an event."""
    statement = select(webhooks).where(
        webhooks.c.tenant == tenant,
        webhooks.c.enabled,
        or_(webhooks.c.events == [], webhooks.c.events.contains([event])),
        or_(webhooks.c.model.is_(None), webhooks.c.model == model),
    )
    return records(WebhookRow, (await tx.session.execute(statement)).mappings())


async def enqueue(tx: Transaction, rows: Sequence[dict[str, Any]]) -> None:
    """Insert deliveries; an event that a webhook has already is left as it is."""
    if rows:
        await tx.session.execute(insert(webhook_deliveries).on_conflict_do_nothing(), list(rows))


async def take_due(tx: Transaction, *, now: datetime, until: datetime, limit: int) -> list[DeliveryRow]:
    """Take deliveries whose time has come; until `until` nobody else does."""
    due = (
        select(webhook_deliveries.c.seq)
        .join(webhooks, webhooks.c.id == webhook_deliveries.c.webhook_id)
        .where(webhook_deliveries.c.status == "pending", webhook_deliveries.c.next_at <= now, webhooks.c.enabled)
        .order_by(webhook_deliveries.c.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True, of=webhook_deliveries)
    )
    statement = (
        update(webhook_deliveries)
        .where(webhook_deliveries.c.seq.in_(due))
        .values(next_at=until)
        .returning(*webhook_deliveries.c)
    )
    return records(DeliveryRow, (await tx.session.execute(statement)).mappings())


async def settle(
    tx: Transaction, row: DeliveryRow, *, status: str, attempts: list[dict[str, Any]], next_at: datetime | None
) -> None:
    """Write what became of an attempt."""
    await tx.session.execute(
        update(webhook_deliveries)
        .where(webhook_deliveries.c.seq == row.seq)
        .values(status=status, attempts=attempts, next_at=next_at)
    )


async def deliveries(
    tx: Transaction, webhook_id: str, *, before: int | None, status: str | None, limit: int
) -> list[DeliveryRow]:
    """List a webhook's deliveries, newest first."""
    statement = select(webhook_deliveries).where(webhook_deliveries.c.webhook_id == webhook_id)
    if before is not None:
        statement = statement.where(webhook_deliveries.c.seq < before)
    if status is not None:
        statement = statement.where(webhook_deliveries.c.status == status)
    statement = statement.order_by(webhook_deliveries.c.seq.desc()).limit(limit)
    return records(DeliveryRow, (await tx.session.execute(statement)).mappings())


async def redeliver(tx: Transaction, webhook_id: str, delivery_id: str, *, at: datetime) -> DeliveryRow | None:
    """Make a delivery due again, with all its attempts ahead; None when there is none of that id."""
    statement = (
        update(webhook_deliveries)
        .where(webhook_deliveries.c.webhook_id == webhook_id, webhook_deliveries.c.id == delivery_id)
        .values(status="pending", attempts=[], next_at=at)
        .returning(*webhook_deliveries.c)
    )
    return record(DeliveryRow, (await tx.session.execute(statement)).mappings().first())


async def prune(tx: Transaction, *, before: datetime) -> None:
    """Forget deliveries that are over and older than a time."""
    await tx.session.execute(
        delete(webhook_deliveries).where(
            webhook_deliveries.c.created_at < before, webhook_deliveries.c.status != "pending"
        )
    )
