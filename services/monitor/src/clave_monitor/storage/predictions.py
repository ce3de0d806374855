"""Queries on predictions and the outcomes that join them.

Joining is serial: whoever inserts predictions or outcomes holds one advisory lock until its transaction ends,
so a prediction and its outcome can never miss each other, and `labelled_at` grows in the order of commits.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson
from clave_common.database import Transaction
from numpy.typing import NDArray
from sqlalchemy import delete, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from clave_monitor.storage.records import Key, WaitingRows
from clave_monitor.storage.tables import column_sets, feedback, predictions

Floats = NDArray[np.float64]
_JOIN_LOCK = "clave_monitor:join"


@dataclass(frozen=True)
class ScoredRow:
    """A prediction as windows and performance need it."""

    prediction_id: str
    row: int
    seq: int
    at: datetime
    columns: tuple[str, ...]
    features: bytes
    score: float | None
    outcome: float | None
    attributes: dict[str, Any] | None
    labelled_at: datetime | None


async def serialise_joins(tx: Transaction) -> None:
    """Wait for every other join; released when the transaction ends."""
    await tx.session.execute(text("select pg_advisory_xact_lock(hashtext(:k))"), {"k": _JOIN_LOCK})


async def column_set(tx: Transaction, columns: Sequence[str]) -> int:
    """Return the number of a list of column names, storing a new one."""
    digest = hashlib.sha256(orjson.dumps(list(columns))).hexdigest()
    known = await tx.session.scalar(select(column_sets.c.id).where(column_sets.c.digest == digest))
    if known is not None:
        return int(known)
    statement = insert(column_sets).values(digest=digest, columns=list(columns))
    upsert = statement.on_conflict_do_update(index_elements=["digest"], set_={"digest": digest})
    return int((await tx.session.execute(upsert.returning(column_sets.c.id))).scalar_one())


async def columns_of(tx: Transaction, numbers: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """Return the column names of numbered lists."""
    statement = select(column_sets.c.id, column_sets.c.columns).where(
        column_sets.c.id == func.any(sorted(set(numbers)))
    )
    return {row.id: tuple(row.columns) for row in await tx.session.execute(statement)}


_INSERT = text(
    "insert into monitor.predictions (prediction_id, row, endpoint, model, model_version, arm, tenant, principal,"
    " protocol, predicted_at, received_at, column_set, features, entities, score, label, latency_ms, error) "
    "select prediction_id, row, endpoint, model, model_version, arm, tenant, principal,"
    " protocol, predicted_at, received_at, column_set, decode(features, 'base64'), entities, score, label,"
    " latency_ms, error from jsonb_to_recordset(cast(:rows as jsonb)) as given("
    "prediction_id text, row int, endpoint text, model text, model_version int, arm text, tenant text,"
    " principal text, protocol text, predicted_at timestamptz, received_at timestamptz, column_set int,"
    " features text, entities jsonb, score float8, label smallint, latency_ms float8, error text) "
    "on conflict do nothing returning prediction_id, row"
)
"""One parameter for all rows: a statement with a place for each value costs ten times the CPU and memory."""


async def add(tx: Transaction, rows: Sequence[dict[str, Any]]) -> set[tuple[str, int]]:
    """Insert predictions that are not known yet; `features` come as base64.

    Returns:
        (prediction id, row) of those that were new.
    """
    if not rows:
        return set()
    result = await tx.session.execute(_INSERT, {"rows": orjson.dumps(rows).decode()})
    return {(row.prediction_id, row.row) for row in result}


_PENDING = text(
    "select f.prediction_id, f.row, f.outcome, f.attributes, f.principal, f.occurred_at, f.received_at "
    "from monitor.feedback as f where f.joined_at is null and (f.prediction_id, f.row) in ("
    "select prediction_id, row from jsonb_to_recordset(cast(:rows as jsonb)) as given(prediction_id text, row int))"
)


async def pending_outcomes(tx: Transaction, ids: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """List outcomes that came before these predictions."""
    wanted = orjson.dumps([{"prediction_id": name, "row": row} for name, row in ids]).decode()
    return [dict(row) for row in (await tx.session.execute(_PENDING, {"rows": wanted})).mappings()]


async def known_rows(tx: Transaction, ids: Sequence[str]) -> dict[str, dict[int, Key]]:
    """Tell which predictions and rows are stored, and whose they are."""
    found: dict[str, dict[int, Key]] = {}
    columns = predictions.c
    statement = select(
        columns.prediction_id, columns.row, columns.endpoint, columns.model, columns.model_version
    ).where(columns.prediction_id == func.any(list(ids)))
    for row in await tx.session.execute(statement):
        key = Key(row.endpoint, row.model, row.model_version)
        found.setdefault(row.prediction_id, {})[row.row] = key
    return found


async def known_outcomes(tx: Transaction, ids: Sequence[str]) -> dict[tuple[str, int], float]:
    """Tell which outcomes are stored already."""
    statement = select(feedback.c.prediction_id, feedback.c.row, feedback.c.outcome).where(
        feedback.c.prediction_id == func.any(list(ids))
    )
    return {(row.prediction_id, row.row): row.outcome for row in await tx.session.execute(statement)}


_OUTCOMES = (
    "jsonb_to_recordset(cast(:rows as jsonb)) as given(prediction_id text, row int, outcome float8,"
    " attributes jsonb, principal text, occurred_at timestamptz, received_at timestamptz)"
)
_INSERT_OUTCOMES = text(
    "insert into monitor.feedback "  # noqa: S608 - constants
    "(prediction_id, row, outcome, attributes, principal, occurred_at, received_at) "
    "select prediction_id, row, outcome, attributes, principal, occurred_at, received_at from " + _OUTCOMES
)
_LABEL = text(
    "update monitor.predictions as p set outcome = given.outcome, occurred_at = given.occurred_at,"  # noqa: S608 - constants
    " attributes = coalesce(given.attributes, '{}'), labelled_at = :at "
    "from " + _OUTCOMES + " where p.prediction_id = given.prediction_id and p.row = given.row and p.labelled_at is null"
)
_MARK_JOINED = text(
    "update monitor.feedback as f set joined_at = :at from "  # noqa: S608 - constants
    + _OUTCOMES
    + " where f.prediction_id = given.prediction_id and f.row = given.row"
)


async def add_outcomes(tx: Transaction, rows: Sequence[dict[str, Any]]) -> None:
    """Insert outcomes."""
    if rows:
        await tx.session.execute(_INSERT_OUTCOMES, {"rows": orjson.dumps(rows).decode()})


async def join(tx: Transaction, outcomes: Sequence[dict[str, Any]], *, at: datetime) -> None:
    """Write outcomes to their predictions and mark them joined.

    Args:
        tx: Holds the join lock.
        outcomes: Rows of `feedback` whose predictions are stored.
        at: When they met.
    """
    if outcomes:
        given = {"rows": orjson.dumps(outcomes).decode(), "at": at}
        await tx.session.execute(_LABEL, given)
        await tx.session.execute(_MARK_JOINED, given)


_WAITING = text(
    "select m.endpoint, m.model, m.model_version, w.n, w.oldest, u.n as labels from monitor.monitors as m "
    "cross join lateral (select count(*) as n, min(received_at) as oldest from ("
    " select received_at from monitor.predictions as p where p.endpoint = m.endpoint and p.model = m.model"
    " and p.model_version = m.model_version and p.window_id is null and p.error is null limit :most) as q) as w "
    "cross join lateral (select count(*) as n from ("
    " select 1 from monitor.predictions as p where p.endpoint = m.endpoint and p.model = m.model"
    " and p.model_version = m.model_version and p.labelled_at is not null and not p.counted limit :most) as q) as u "
    "order by 1, 2, 3"
)


async def waiting(tx: Transaction, *, most: int) -> list[WaitingRows]:
    """Count, per monitor, predictions in no window and labels not counted yet, each up to `most`."""
    return [
        WaitingRows(Key(row.endpoint, row.model, row.model_version), row.n, row.oldest, row.labels)
        for row in await tx.session.execute(_WAITING, {"most": most})
    ]


def _scored() -> Any:
    columns = predictions.c
    return select(
        columns.prediction_id,
        columns.row,
        columns.seq,
        columns.predicted_at,
        columns.features,
        columns.score,
        columns.outcome,
        columns.attributes,
        columns.labelled_at,
        columns.column_set,
    )


def _of(key: Key) -> Any:
    return (
        (predictions.c.endpoint == key.endpoint)
        & (predictions.c.model == key.model)
        & (predictions.c.model_version == key.model_version)
    )


async def _scored_rows(tx: Transaction, statement: Any) -> list[ScoredRow]:
    found = (await tx.session.execute(statement)).all()
    names = await columns_of(tx, (row.column_set for row in found))
    return [
        ScoredRow(
            prediction_id=row.prediction_id,
            row=row.row,
            seq=row.seq,
            at=row.predicted_at,
            columns=names[row.column_set],
            features=row.features,
            score=row.score,
            outcome=row.outcome,
            attributes=row.attributes,
            labelled_at=row.labelled_at,
        )
        for row in found
    ]


async def next_window_rows(tx: Transaction, key: Key, *, limit: int) -> list[ScoredRow]:
    """Give the oldest answered predictions that no window has taken."""
    statement = (
        _scored()
        .where(_of(key), predictions.c.window_id.is_(None), predictions.c.error.is_(None))
        .order_by(predictions.c.seq)
        .limit(limit)
    )
    return await _scored_rows(tx, statement)


async def take_into_window(tx: Transaction, rows: Sequence[ScoredRow], window_id: int) -> None:
    """Mark predictions as counted by a window."""
    statement = update(predictions).where(predictions.c.seq == func.any([row.seq for row in rows]))
    await tx.session.execute(statement.values(window_id=window_id))


async def uncounted_labels(tx: Transaction, key: Key, *, limit: int) -> list[ScoredRow]:
    """Give labelled predictions whose loss no recursion has seen, in the order of their labels."""
    statement = (
        _scored()
        .where(_of(key), predictions.c.labelled_at.is_not(None), predictions.c.counted.is_(False))
        .order_by(predictions.c.labelled_at, predictions.c.seq)
        .limit(limit)
    )
    return await _scored_rows(tx, statement)


async def mark_counted(tx: Transaction, rows: Sequence[ScoredRow]) -> None:
    """Mark labels as seen by the recursion."""
    statement = update(predictions).where(predictions.c.seq == func.any([row.seq for row in rows]))
    await tx.session.execute(statement.values(counted=True))


async def latest_labelled(tx: Transaction, key: Key, *, limit: int) -> list[ScoredRow]:
    """Give the newest labelled predictions of a monitor, newest first."""
    statement = (
        _scored()
        .where(_of(key), predictions.c.labelled_at.is_not(None))
        .order_by(predictions.c.labelled_at.desc(), predictions.c.seq.desc())
        .limit(limit)
    )
    return await _scored_rows(tx, statement)


async def latest_scores(tx: Transaction, key: Key, *, limit: int) -> Floats:
    """Give the newest windowed scores of a monitor, shape (<= limit,)."""
    statement = (
        select(predictions.c.score)
        .where(_of(key), predictions.c.window_id.is_not(None), predictions.c.score.is_not(None))
        .order_by(predictions.c.seq.desc())
        .limit(limit)
    )
    return np.array((await tx.session.execute(statement)).scalars().all(), dtype=np.float64)


async def not_taken_yet(tx: Transaction, key: Key) -> tuple[int, int]:
    """Count a monitor's answered predictions in no window, and its labels not counted yet."""
    rows = select(func.count()).where(_of(key), predictions.c.window_id.is_(None), predictions.c.error.is_(None))
    labels = select(func.count()).where(
        _of(key), predictions.c.labelled_at.is_not(None), predictions.c.counted.is_(False)
    )
    return int(await tx.session.scalar(rows) or 0), int(await tx.session.scalar(labels) or 0)


@dataclass(frozen=True)
class ArmRow:
    """A prediction as the canary analysis needs it."""

    score: float | None
    error: str | None
    latency_ms: float | None
    outcome: float | None
    at: datetime


async def arm_rows(tx: Transaction, *, endpoint: str, version: int, since: datetime | None, limit: int) -> list[ArmRow]:
    """Give the newest predictions of an endpoint's version since a time, newest first."""
    columns = predictions.c
    statement = select(columns.score, columns.error, columns.latency_ms, columns.outcome, columns.predicted_at).where(
        columns.endpoint == endpoint, columns.model_version == version
    )
    if since is not None:
        statement = statement.where(columns.predicted_at >= since)
    statement = statement.order_by(columns.predicted_at.desc()).limit(limit)
    return [ArmRow(*row) for row in await tx.session.execute(statement)]


async def labelled_page(
    tx: Transaction,
    endpoint: str,
    *,
    after: datetime | None,
    position: tuple[datetime, str, int] | None,
    limit: int,
) -> list[dict[str, Any]]:
    """List an endpoint's labelled predictions, oldest label first."""
    columns = predictions.c
    statement = select(
        columns.prediction_id,
        columns.row,
        columns.predicted_at,
        columns.labelled_at,
        columns.entities,
        columns.model_version,
        columns.score,
        columns.outcome,
        columns.attributes,
    ).where(columns.endpoint == endpoint, columns.labelled_at.is_not(None))
    if after is not None:
        statement = statement.where(columns.labelled_at > after)
    if position is not None:
        at, prediction_id, row = position
        statement = statement.where(
            tuple_(columns.labelled_at, columns.prediction_id, columns.row) > tuple_(at, prediction_id, row)
        )
    statement = statement.order_by(columns.labelled_at, columns.prediction_id, columns.row).limit(limit)
    return [dict(row) for row in (await tx.session.execute(statement)).mappings()]


async def forget_before(tx: Transaction, at: datetime, *, limit: int) -> int:
    """Delete old predictions that the log already holds, and old outcomes; return how many predictions."""
    old = (
        select(predictions.c.seq)
        .where(predictions.c.received_at < at, predictions.c.log_batch.is_not(None))
        .limit(limit)
    )
    gone = await tx.session.execute(delete(predictions).where(predictions.c.seq.in_(old)).returning(predictions.c.seq))
    count = len(gone.all())
    await tx.session.execute(delete(feedback).where(feedback.c.received_at < at))
    return count
