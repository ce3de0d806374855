"""Queries on retraining decisions and the runs that they led to."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from clave_monitor.storage.records import Key
from clave_monitor.storage.tables import decisions

_LOST_AFTER = timedelta(hours=6)
"""A retraining whose end was never heard of blocks no longer than this."""


@dataclass(frozen=True)
class History:
    """What the endpoint's earlier retrainings say about a new one."""

    in_flight: bool
    last_ended_at: datetime | None
    within_a_day: int


async def add(tx: Transaction, values: dict[str, Any]) -> None:
    """Insert a decision."""
    await tx.session.execute(insert(decisions).values(**values))


async def latest(tx: Transaction, key: Key) -> dict[str, Any] | None:
    """Find the latest decision about a version."""
    statement = (
        select(decisions)
        .where(
            decisions.c.endpoint == key.endpoint,
            decisions.c.model == key.model,
            decisions.c.model_version == key.model_version,
        )
        .order_by(decisions.c.at.desc(), decisions.c.id.desc())
        .limit(1)
    )
    row = (await tx.session.execute(statement)).mappings().first()
    return None if row is None else dict(row)


async def find(tx: Transaction, decision_id: str) -> dict[str, Any] | None:
    """Find a decision and hold it until the transaction ends."""
    statement = select(decisions).where(decisions.c.id == decision_id).with_for_update()
    row = (await tx.session.execute(statement)).mappings().first()
    return None if row is None else dict(row)


async def change(tx: Transaction, decision_id: str, **values: Any) -> dict[str, Any]:
    """Update a decision."""
    statement = update(decisions).where(decisions.c.id == decision_id).values(**values).returning(decisions)
    return dict((await tx.session.execute(statement)).mappings().one())


async def history(tx: Transaction, endpoint: str, *, now: datetime) -> History:
    """Summarise an endpoint's retrainings, whatever the version."""
    columns = decisions.c
    statement = select(
        func.count().filter(columns.ended_at.is_(None), columns.at > now - _LOST_AFTER),
        func.max(columns.ended_at),
        func.count().filter(columns.at > now - timedelta(days=1)),
    ).where(columns.endpoint == endpoint, columns.decision == "retrain")
    open_runs, ended_at, recent = (await tx.session.execute(statement)).one()
    return History(in_flight=open_runs > 0, last_ended_at=ended_at, within_a_day=recent)


async def page(
    tx: Transaction, endpoint: str, *, position: tuple[datetime, str] | None, limit: int
) -> list[dict[str, Any]]:
    """List an endpoint's decisions, newest first."""
    statement = select(decisions).where(decisions.c.endpoint == endpoint)
    if position is not None:
        statement = statement.where(tuple_(decisions.c.at, decisions.c.id) < tuple_(*position))
    statement = statement.order_by(decisions.c.at.desc(), decisions.c.id.desc()).limit(limit)
    return [dict(row) for row in (await tx.session.execute(statement)).mappings()]
