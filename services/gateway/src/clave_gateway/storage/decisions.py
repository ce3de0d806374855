"""Queries on the log of decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_gateway.storage.tables import decisions


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision with the input it was made on."""

    id: str
    at: datetime
    service: str
    subject: str
    action: str
    resource: str
    allow: bool
    reasons: list[str]
    policy_version: str
    engine: str
    input: dict[str, Any]
    input_digest: str


async def add_decisions(session: AsyncConnection, rows: Sequence[DecisionRow]) -> None:
    """Add decisions; ones that are known are left as they are."""
    values = [{name: getattr(row, name) for name in DecisionRow.__slots__} for row in rows]
    await session.execute(insert(decisions).values(values).on_conflict_do_nothing())


async def find_decision(session: AsyncConnection, decision_id: str) -> DecisionRow | None:
    """Find a decision."""
    row = (await session.execute(select(decisions).where(decisions.c.id == decision_id))).one_or_none()
    return DecisionRow(**row._asdict()) if row else None


async def recent_decisions(
    session: AsyncConnection, conditions: Sequence[ColumnElement[bool]], *, limit: int
) -> list[DecisionRow]:
    """List decisions that meet every condition, newest first."""
    query = select(decisions).where(*conditions).order_by(decisions.c.at.desc(), decisions.c.id.desc()).limit(limit)
    return [DecisionRow(**row._asdict()) for row in await session.execute(query)]


async def forget_decisions(session: AsyncConnection, *, before: datetime) -> None:
    """Drop decisions older than a moment."""
    await session.execute(delete(decisions).where(decisions.c.at < before))
