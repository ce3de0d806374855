"""Queries on endpoints, monitors and their windows."""

import zlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import numpy as np
from clave_common.database import Transaction
from numpy.typing import NDArray
from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert

from clave_monitor.domain.counters import SLOTS, Counts
from clave_monitor.storage.records import EndpointRow, Key, MonitorRow
from clave_monitor.storage.tables import endpoints, monitors, windows


def _endpoint(row: Any) -> EndpointRow:
    return EndpointRow(
        name=row.name,
        namespace=row.namespace,
        live_model=row.live_model,
        live_version=row.live_version,
        live_at=row.live_at,
        policy=dict(row.policy),
        policy_revision=row.policy_revision,
    )


def _monitor(row: Any) -> MonitorRow:
    return MonitorRow(
        key=Key(row.endpoint, row.model, row.model_version),
        reference_digest=row.reference_digest,
        reference_problem=row.reference_problem,
        state=dict(row.state),
        report=dict(row.report),
        windows=row.windows,
        rows=row.rows,
        labels=row.labels,
        first_at=row.first_at,
        last_window_at=row.last_window_at,
    )


async def endpoint(tx: Transaction, name: str) -> EndpointRow | None:
    """Find an endpoint."""
    row = (await tx.session.execute(select(endpoints).where(endpoints.c.name == name))).first()
    return None if row is None else _endpoint(row)


async def all_endpoints(tx: Transaction) -> list[EndpointRow]:
    """List every endpoint that was seen or configured."""
    return [_endpoint(row) for row in await tx.session.execute(select(endpoints).order_by(endpoints.c.name))]


async def note_live(tx: Transaction, key: Key, *, at: datetime) -> None:
    """Remember which version answered an endpoint's live traffic last."""
    live = {"live_model": key.model, "live_version": key.model_version, "live_at": at, "updated_at": at}
    statement = insert(endpoints).values(name=key.endpoint, **live)
    newer = endpoints.c.live_at.is_(None) | (endpoints.c.live_at <= at)
    await tx.session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=live, where=newer))


async def note_namespace(tx: Transaction, name: str, namespace: str) -> None:
    """Remember an endpoint's namespace as the registry told it."""
    await tx.session.execute(update(endpoints).where(endpoints.c.name == name).values(namespace=namespace))


async def put_policy(tx: Transaction, name: str, policy: dict[str, Any], *, by: str, at: datetime) -> None:
    """Store an endpoint's policy."""
    values = {"policy": policy, "policy_by": by, "updated_at": at}
    statement = insert(endpoints).values(name=name, policy_revision=1, **values)
    await tx.session.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_=values | {"policy_revision": endpoints.c.policy_revision + 1}
        )
    )


async def ensure(tx: Transaction, keys: Iterable[Key], *, at: datetime) -> None:
    """Create the monitors that are new."""
    values = [key.values() | {"first_at": at, "updated_at": at} for key in keys]
    if values:
        await tx.session.execute(insert(monitors).values(values).on_conflict_do_nothing())


async def lock(tx: Transaction, key: Key, *, at: datetime) -> MonitorRow:
    """Hold a monitor until the transaction ends, creating it if it is new."""
    await ensure(tx, [key], at=at)
    row = (await tx.session.execute(select(monitors).where(_is(key)).with_for_update())).one()
    return _monitor(row)


async def find(tx: Transaction, key: Key) -> MonitorRow | None:
    """Find a monitor."""
    row = (await tx.session.execute(select(monitors).where(_is(key)))).first()
    return None if row is None else _monitor(row)


async def all_monitors(tx: Transaction, endpoint_name: str | None = None) -> list[MonitorRow]:
    """List monitors, of one endpoint or of all."""
    statement = select(monitors).order_by(monitors.c.endpoint, monitors.c.model, monitors.c.model_version)
    if endpoint_name is not None:
        statement = statement.where(monitors.c.endpoint == endpoint_name)
    return [_monitor(row) for row in await tx.session.execute(statement)]


async def change(tx: Transaction, key: Key, *, at: datetime, **values: Any) -> None:
    """Update a monitor."""
    await tx.session.execute(update(monitors).where(_is(key)).values(updated_at=at, **values))


def _is(key: Key) -> Any:
    return (
        (monitors.c.endpoint == key.endpoint)
        & (monitors.c.model == key.model)
        & (monitors.c.model_version == key.model_version)
    )


async def add_window(tx: Transaction, key: Key, *, counters: Counts, **values: Any) -> int:
    """Insert a closed window and return its number in the database."""
    packed = zlib.compress(counters.astype("<i8").tobytes(), 1)
    statement = insert(windows).values(**key.values(), counters=packed, **values).returning(windows.c.id)
    return int((await tx.session.execute(statement)).scalar_one())


async def set_result(tx: Transaction, window_id: int, result: dict[str, Any]) -> None:
    """Write what a window's look found."""
    await tx.session.execute(update(windows).where(windows.c.id == window_id).values(result=result))


async def latest_counters(tx: Transaction, key: Key, *, reference_digest: str, limit: int) -> list[NDArray[np.int64]]:
    """Give the counters of the latest windows against one reference, oldest first."""
    statement = (
        select(windows.c.counters)
        .where(
            windows.c.endpoint == key.endpoint,
            windows.c.model == key.model,
            windows.c.model_version == key.model_version,
            windows.c.reference_digest == reference_digest,
        )
        .order_by(windows.c.number.desc())
        .limit(limit)
    )
    packed = (await tx.session.execute(statement)).scalars().all()
    return [np.frombuffer(zlib.decompress(p), dtype="<i8").reshape(-1, SLOTS) for p in reversed(packed)]


async def window_page(tx: Transaction, endpoint_name: str, *, before: int | None, limit: int) -> list[dict[str, Any]]:
    """List an endpoint's windows, newest first."""
    columns = [c for c in windows.c if c.name != "counters"]
    statement = select(*columns).where(windows.c.endpoint == endpoint_name)
    if before is not None:
        statement = statement.where(windows.c.id < before)
    statement = statement.order_by(windows.c.id.desc()).limit(limit)
    names = [str(column.name) for column in columns]  # plain text: SQLAlchemy's own kind is no JSON key
    return [dict(zip(names, row, strict=True)) for row in await tx.session.execute(statement)]


async def forget_windows_before(tx: Transaction, at: datetime) -> None:
    """Delete old windows."""
    await tx.session.execute(text("delete from monitor.windows where closed_at < :at"), {"at": at})
