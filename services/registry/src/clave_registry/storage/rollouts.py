"""Queries on rollouts and their events."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.records import RolloutEventRow, RolloutRow, record, records
from clave_registry.storage.tables import rollout_events, rollouts


async def add(tx: Transaction, values: dict[str, Any]) -> RolloutRow:
    """Insert a rollout."""
    statement = insert(rollouts).values(**values).returning(*rollouts.c)
    return RolloutRow(**(await tx.session.execute(statement)).mappings().one())


async def find(tx: Transaction, rollout_id: str, *, lock: bool = False) -> RolloutRow | None:
    """Find a rollout; with `lock`, hold it until the transaction ends."""
    statement = select(rollouts).where(rollouts.c.id == rollout_id)
    if lock:
        statement = statement.with_for_update()
    return record(RolloutRow, (await tx.session.execute(statement)).mappings().first())


async def several(tx: Transaction, ids: Sequence[str]) -> list[RolloutRow]:
    """Find rollouts by id."""
    statement = select(rollouts).where(rollouts.c.id.in_(list(ids)))
    return records(RolloutRow, (await tx.session.execute(statement)).mappings())


async def of_endpoint(tx: Transaction, endpoint: str, *, before: datetime | None, limit: int) -> list[RolloutRow]:
    """List an endpoint's rollouts, newest first."""
    statement = select(rollouts).where(rollouts.c.endpoint == endpoint)
    if before is not None:
        statement = statement.where(rollouts.c.created_at < before)
    statement = statement.order_by(rollouts.c.created_at.desc()).limit(limit)
    return records(RolloutRow, (await tx.session.execute(statement)).mappings())


async def due(tx: Transaction, *, now: datetime, limit: int) -> list[str]:
    """List the ids of rollouts whose time to wake has come, longest overdue first."""
    statement = (
        select(rollouts.c.id)
        .where(rollouts.c.finished_at.is_(None), rollouts.c.wake_at <= now)
        .order_by(rollouts.c.wake_at)
        .limit(limit)
    )
    return list((await tx.session.execute(statement)).scalars())


async def change(tx: Transaction, rollout_id: str, **values: Any) -> RolloutRow:
    """Update a rollout."""
    statement = update(rollouts).where(rollouts.c.id == rollout_id).values(**values).returning(*rollouts.c)
    return RolloutRow(**(await tx.session.execute(statement)).mappings().one())


async def remember(tx: Transaction, values: dict[str, Any]) -> None:
    """Append to a rollout's history."""
    await tx.session.execute(insert(rollout_events).values(**values))


async def events_of(tx: Transaction, ids: Sequence[str]) -> list[RolloutEventRow]:
    """List the events of some rollouts, oldest first."""
    statement = (
        select(rollout_events)
        .where(rollout_events.c.rollout_id.in_(list(ids)))
        .order_by(rollout_events.c.seq)
        .limit(5000)
    )
    return records(RolloutEventRow, (await tx.session.execute(statement)).mappings())
