"""Queries on schedules and their fires."""

from datetime import datetime
from typing import Any, cast

from clave_contracts.trainer import Schedule, ScheduleSpec
from sqlalchemy import CursorResult, Row, func, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_trainer.storage.tables import FIRES, SCHEDULES


def _schedule(row: Row[Any]) -> Schedule:
    return Schedule(
        id=row.id,
        spec=ScheduleSpec.model_validate(row.spec),
        next_at=row.next_at,
        last_skip=row.last_skip,
        created_by=row.created_by,
        updated_at=row.updated_at,
    )


async def put(
    session: AsyncConnection, schedule_id: str, spec: ScheduleSpec, *, by: str, next_at: datetime | None
) -> Schedule:
    """Store a schedule."""
    values = {
        "pipeline": spec.pipeline,
        "spec": spec.model_dump(mode="json"),
        "enabled": spec.enabled,
        "next_at": next_at,
        "last_skip": "",
        "updated_at": func.now(),
    }
    statement = (
        insert(SCHEDULES)
        .values(id=schedule_id, created_by=by, **values)
        .on_conflict_do_update(index_elements=[SCHEDULES.c.id], set_=values)
        .returning(SCHEDULES)
    )
    return _schedule((await session.execute(statement)).one())


async def all_of(session: AsyncConnection) -> list[Schedule]:
    """Read every schedule, oldest first."""
    return [_schedule(row) for row in await session.execute(select(SCHEDULES).order_by(SCHEDULES.c.id))]


async def find(session: AsyncConnection, schedule_id: str) -> Schedule | None:
    """Find a schedule."""
    row = (await session.execute(select(SCHEDULES).where(SCHEDULES.c.id == schedule_id))).one_or_none()
    return None if row is None else _schedule(row)


async def delete(session: AsyncConnection, schedule_id: str) -> bool:
    """Remove a schedule; False when there is none."""
    result = await session.execute(sql_delete(SCHEDULES).where(SCHEDULES.c.id == schedule_id))
    return cast("CursorResult[Any]", result).rowcount == 1


async def due(session: AsyncConnection, now: datetime, limit: int) -> list[Schedule]:
    """Lock the schedules whose time has come and that no other scheduler holds."""
    statement = (
        select(SCHEDULES)
        .where(SCHEDULES.c.enabled, SCHEDULES.c.next_at <= now)
        .order_by(SCHEDULES.c.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [_schedule(row) for row in await session.execute(statement)]


async def advance(session: AsyncConnection, schedule_id: str, next_at: datetime, skipped: str) -> None:
    """Set the next due time and why the last one started nothing."""
    await session.execute(
        update(SCHEDULES).where(SCHEDULES.c.id == schedule_id).values(next_at=next_at, last_skip=skipped)
    )


async def record_fire(session: AsyncConnection, schedule_id: str, at: datetime, skipped: str) -> bool:
    """Record a due time once; False when it has been recorded."""
    statement = (
        insert(FIRES)
        .values(schedule_id=schedule_id, due=at, skipped=skipped)
        .on_conflict_do_nothing()
        .returning(FIRES.c.due)
    )
    return (await session.execute(statement)).first() is not None


async def note_run(session: AsyncConnection, schedule_id: str, at: datetime, run_id: str) -> None:
    """Write which run a due time started."""
    await session.execute(
        update(FIRES).where(FIRES.c.schedule_id == schedule_id, FIRES.c.due == at).values(run_id=run_id)
    )
