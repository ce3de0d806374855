"""Judges one upload: a staged table in, accepted rows as a Parquet file and quarantined rows with reasons out."""
# ruff: noqa: S608 - SQL is this module's product; names and literals are quoted by `domain.sql`.

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from clave_features.domain.definitions import Entity, View
from clave_features.domain.errors import BatchRefused
from clave_features.domain.sql import identifier, literal, text_list
from clave_features.domain.times import from_us
from clave_features.domain.validation_sql import (
    CREATED_TS,
    EVENT_TS,
    ValidationPlan,
    required_columns,
    validation_plan,
)
from clave_features.runtime.engine import Engine, path_literal
from clave_features.runtime.staging import STAGED, Form, require_columns, stage

if TYPE_CHECKING:
    import duckdb

SEQ_BITS: Final = 32
ROWS_MAX: Final = 1 << SEQ_BITS


@dataclass(frozen=True, slots=True)
class Upload:
    """What arrived, and under which batch it is judged.

    Attributes:
        received_at: Becomes `created_ts` where the view names no column for it.
        future_until: Event times after this lie in the future.
        target: File to write the accepted rows to.
    """

    path: Path
    form: Form
    batch_no: int
    received_at: datetime
    future_until: datetime
    target: Path
    ignore_unknown: bool = False
    quarantine_rows_max: int = 10_000


@dataclass(frozen=True, slots=True)
class Reason:
    """How many rows failed one check."""

    rule: str
    column: str
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an upload.

    Attributes:
        quarantined: (row number, reasons, content) of refused rows, at most `quarantine_rows_max`.
        columns: Columns of the file, empty when no row was accepted.
    """

    rows: int
    accepted: int
    reasons: tuple[Reason, ...]
    quarantined: tuple[tuple[int, list[dict[str, str]], dict[str, Any]], ...]
    columns: tuple[str, ...]
    event_ts_min: datetime | None
    event_ts_max: datetime | None


def judge(engine: Engine, upload: Upload, view: View, entity: Entity) -> Verdict:
    """Validate an upload in one pass and write what is accepted.

    Raises:
        TableMalformed, TableEmpty, ColumnsMissing, ColumnsUnknown: It is not a table of this view.
        BatchRefused: Too many values are missing.
    """
    with engine.session() as connection:
        types = stage(connection, upload.path, upload.form)
        wanted = required_columns(view, entity)
        require_columns(list(types), wanted, view=view.name, ignore_unknown=upload.ignore_unknown)
        plan = validation_plan(view, entity, staged=STAGED, source_types=types)
        connection.execute(f"CREATE TEMP TABLE judged AS {plan.sql}", [upload.future_until])
        rows = _count(connection, "judged")
        _require_few_missing(connection, plan, rows)
        reasons, quarantined = _quarantine(connection, plan, wanted, upload.quarantine_rows_max)
        refused = _count(connection, f"judged WHERE {plan.failed}")
        columns = _write(connection, plan, upload, view, entity) if refused < rows else ()
        times = _event_times(connection, plan)
    return Verdict(rows, rows - refused, reasons, quarantined, columns, *times)


def _count(connection: "duckdb.DuckDBPyConnection", source: str) -> int:
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {source}").fetchall()
    return int(rows)


def _require_few_missing(connection: "duckdb.DuckDBPyConnection", plan: ValidationPlan, rows: int) -> None:
    if not plan.missing_limits:
        return
    counts = text_list([f"count({identifier(column)})" for _, column, _ in plan.missing_limits])
    (present,) = connection.execute(f"SELECT {counts} FROM {STAGED}").fetchall()
    over = {
        name: (1 - there / rows, limit)
        for (name, _, limit), there in zip(plan.missing_limits, present, strict=True)
        if 1 - there / rows > limit
    }
    if over:
        named = ", ".join(f"'{name}' {share:.1%} (at most {limit:.1%})" for name, (share, limit) in over.items())
        raise BatchRefused(
            f"Too many values are missing: {named}. Nothing was ingested; complete the table and send it again.",
            missing_shares={name: share for name, (share, _) in over.items()},
        )


def _quarantine(
    connection: "duckdb.DuckDBPyConnection", plan: ValidationPlan, source: list[str], limit: int
) -> tuple[tuple[Reason, ...], tuple[tuple[int, list[dict[str, str]], dict[str, Any]], ...]]:
    masks = text_list([f"j.{mask}" for mask in plan.masks])
    tallies = connection.execute(
        f"SELECT {masks}, count(*) FROM judged j WHERE {plan.failed} GROUP BY {masks}"
    ).fetchall()
    counts: Counter[int] = Counter()
    for *mask, rows in tallies:
        for check in plan.reasons(mask):
            counts[plan.checks.index(check)] += rows
    reasons = tuple(
        Reason(plan.checks[bit].rule, plan.checks[bit].field, rows, plan.checks[bit].reason)
        for bit, rows in sorted(counts.items())
    )
    shown = text_list([f"CAST(s.{identifier(name)} AS VARCHAR)" for name in source])
    kept = connection.execute(
        f"SELECT j._row, {masks}, {shown} FROM judged j JOIN {STAGED} s USING (_row) "
        f"WHERE {plan.failed} ORDER BY j._row LIMIT {limit}"
    ).fetchall()
    width = 1 + len(plan.masks)
    rows_out = tuple((int(row[0]), _told(plan, row[1:width]), _content(source, row[width:])) for row in kept)
    return reasons, rows_out


def _told(plan: ValidationPlan, masks: tuple[int, ...]) -> list[dict[str, str]]:
    return [{"rule": one.rule, "column": one.field, "reason": one.reason} for one in plan.reasons(masks)]


def _content(names: list[str], values: tuple[str | None, ...]) -> dict[str, Any]:
    # Postgres keeps no NUL in text.
    return {name: value.replace("\0", "\ufffd") if value else value for name, value in zip(names, values, strict=True)}


def _write(
    connection: "duckdb.DuckDBPyConnection", plan: ValidationPlan, upload: Upload, view: View, entity: Entity
) -> tuple[str, ...]:
    created = identifier(CREATED_TS)
    if view.created_column is None:
        created = f"CAST({literal(upload.received_at.isoformat())} AS TIMESTAMPTZ) AS {created}"
    base = upload.batch_no << SEQ_BITS
    features = [one.name for one in view.stored]
    selected = [
        *(identifier(name) for name in (*entity.key_names, EVENT_TS)),
        created,
        f"CAST({base} + _row AS BIGINT) AS seq",
        *(identifier(name) for name in features),
    ]
    connection.execute(
        f"COPY (SELECT {text_list(selected)} FROM judged WHERE NOT ({plan.failed}) ORDER BY _row) "
        f"TO {path_literal(upload.target)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 100000)"
    )
    return (*entity.key_names, EVENT_TS, CREATED_TS, "seq", *features)


def _event_times(
    connection: "duckdb.DuckDBPyConnection", plan: ValidationPlan
) -> tuple[datetime | None, datetime | None]:
    ((first, last),) = connection.execute(
        f"SELECT epoch_us(min({EVENT_TS})), epoch_us(max({EVENT_TS})) FROM judged WHERE NOT ({plan.failed})"
    ).fetchall()
    return None if first is None else from_us(first), None if last is None else from_us(last)
