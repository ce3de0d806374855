"""The one row that says which revision of keys, bindings and policy is in force."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_gateway.storage.tables import access_state

_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class AccessState:
    """What is in force.

    Attributes:
        revision: Grows with every change; at least the milliseconds of its time, so it also grows over a restored
            or newly made database.
    """

    revision: int
    active_bundle: int | None
    previous_bundle: int | None
    lockdown: bool
    lockdown_reason: str


async def ensure_state(session: AsyncConnection, now: datetime) -> None:
    """Make the row of a new installation."""
    await session.execute(
        insert(access_state)
        .values(only=True, revision=_floor(now), lockdown=False, lockdown_reason="")
        .on_conflict_do_nothing()
    )


async def read_state(session: AsyncConnection, *, lock: bool = False) -> AccessState:
    """Read what is in force; with a lock, nobody else changes it before the transaction ends."""
    query = select(access_state)
    row = (await session.execute(query.with_for_update() if lock else query)).one()
    return AccessState(
        revision=row.revision,
        active_bundle=row.active_bundle,
        previous_bundle=row.previous_bundle,
        lockdown=row.lockdown,
        lockdown_reason=row.lockdown_reason,
    )


async def read_revision(session: AsyncConnection) -> int:
    """Read the revision alone."""
    return int((await session.execute(select(access_state.c.revision))).scalar_one())


async def bump_revision(session: AsyncConnection, now: datetime, **changes: object) -> int:
    """Change the row and make its revision grow."""
    grown = func.greatest(access_state.c.revision + 1, _floor(now))
    result = await session.execute(
        update(access_state).values(revision=grown, **changes).returning(access_state.c.revision)
    )
    return int(result.scalar_one())


def _floor(now: datetime) -> int:
    return int(now.timestamp() * _MILLISECONDS)
