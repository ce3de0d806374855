"""Point-in-time joins as SQL: what was each feature worth at the time of each label?

For a label at time t and a view, the winner is the row with the greatest (event_ts, created_ts with null lowest,
seq) among those with equal keys and event_ts <= t; with `as_known` only rows count whose created_ts is not null and
<= t. The time to live is tested on the winner, not inside the join: because event_ts comes first in the order, the
winner without the time to live is the winner with it, if it passes. Out of that one row falls the status, too:
PRESENT, OUTSIDE_MAX_AGE (there is a row, but too old) or NOT_FOUND; a null inside a present row is NULL_VALUE.

Every label row comes out once, in input order: each view is joined on the label's row number, so one view's miss or
duplicate never touches another's values. Three shapes give the same answer:

* ASOF (DuckDB): one inequality only, so not for `as_known`; later versions of one (keys, event_ts) are removed first.
* RANGE (DuckDB, Postgres through a sub-select): join on the range, then row_number.
* LATERAL (DuckDB, Postgres): one ordered LIMIT 1 per label; fast with an index.

Sessions must run in UTC; an interval is written in microseconds, never in days.
"""
# ruff: noqa: S608 - SQL is this module's product; names and literals are quoted by `domain.sql`.

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from clave_features.domain.sql import identifier, literal, text_list


class JoinShape(StrEnum):
    """Which SQL form the join takes."""

    ASOF = "asof"
    RANGE = "range"
    LATERAL = "lateral"


class Status(StrEnum):
    """What a read found (Feast's words)."""

    PRESENT = "PRESENT"
    NULL_VALUE = "NULL_VALUE"
    NOT_FOUND = "NOT_FOUND"
    OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"


@dataclass(frozen=True, slots=True)
class JoinView:
    """One feature view as a side of the join.

    Attributes:
        relation: SQL name or sub-select with the key columns, `event_ts`, `created_ts`, `seq` and the features.
        keys: Pairs (key column of the view, key column of the labels), of the same type.
        ttl_us: Time to live in microseconds; None or 0 for ever.
    """

    name: str
    relation: str
    keys: tuple[tuple[str, str], ...]
    features: tuple[str, ...]
    ttl_us: int | None = None

    def column(self, feature: str) -> str:
        """Name of a column of this view in the result."""
        return f"{self.name}__{feature}"

    @property
    def status_column(self) -> str:
        """Name of the status column in the result."""
        return f"{self.name}__status"

    @property
    def time_column(self) -> str:
        """Name of the event time column in the result."""
        return f"{self.name}__event_ts"


_NEWEST = "f.event_ts DESC, f.created_ts DESC NULLS LAST, f.seq DESC"


def shape_for(*, as_known: bool) -> JoinShape:
    """Choose the form that DuckDB runs best and that can express the question."""
    return JoinShape.RANGE if as_known else JoinShape.ASOF


def point_in_time_sql(
    views: Sequence[JoinView],
    *,
    labels: str,
    label_columns: Sequence[str],
    time_column: str,
    shape: JoinShape,
    as_known: bool,
) -> str:
    """Write the join.

    Args:
        views: Feature views, in the order in which their columns shall come out.
        labels: SQL name of the labels; has `_row` (0, 1, 2, ... in input order), the time and the label columns.
        label_columns: Columns of the labels to pass through untouched.
        time_column: The label time, a timestamp with time zone.
        shape: SQL form.
        as_known: See only what was known at the label time.

    Returns:
        A SELECT that gives per label row `_row`, the label columns and, per view, `view__status`, `view__event_ts`
        and one `view__feature` per feature, ordered by `_row`.

    Raises:
        ValueError: ASOF cannot express `as_known`.
    """
    if as_known and shape is JoinShape.ASOF:
        raise ValueError("an ASOF join takes one inequality; as_known needs two")
    time = identifier(time_column)
    winners = [
        f"{identifier(f'_m{position}')} AS ({_winner(view, labels, time, shape, as_known=as_known)})"
        for position, view in enumerate(views)
    ]
    columns = ["l._row", *(f"l.{identifier(name)}" for name in label_columns)]
    joins = []
    for position, view in enumerate(views):
        match = identifier(f"_m{position}")
        columns += _view_columns(view, match, time)
        joins.append(f"LEFT JOIN {match} ON {match}._row = l._row")
    head = f"WITH {text_list(winners, ',' + chr(10))}\n" if winners else ""
    lines = [f"SELECT {text_list(columns)}", f"FROM {labels} l", *joins, "ORDER BY l._row"]
    return head + "\n".join(lines)


def _view_columns(view: JoinView, match: str, time: str) -> list[str]:
    fresh = f"{match}.event_ts IS NOT NULL"
    if view.ttl_us:
        fresh = f"{match}.event_ts >= l.{time} - to_microseconds({literal(view.ttl_us)})"
    status = (
        f"CASE WHEN {match}.event_ts IS NULL THEN 'NOT_FOUND' WHEN {fresh} THEN 'PRESENT' "
        f"ELSE 'OUTSIDE_MAX_AGE' END AS {identifier(view.status_column)}"
    )
    event = f"CASE WHEN {fresh} THEN {match}.event_ts END AS {identifier(view.time_column)}"
    values = [
        f"CASE WHEN {fresh} THEN {match}.{identifier(feature)} END AS {identifier(view.column(feature))}"
        for feature in view.features
    ]
    return [status, event, *values]


def _winner(view: JoinView, labels: str, time: str, shape: JoinShape, *, as_known: bool) -> str:
    keys = [f"l.{identifier(label)} = f.{identifier(key)}" for key, label in view.keys]
    carried = ["f.event_ts", *(f"f.{identifier(feature)}" for feature in view.features)]
    seen = [*keys, f"f.event_ts <= l.{time}"]
    if as_known:
        seen.append(f"f.created_ts <= l.{time}")
    condition = text_list(seen, " AND ")
    if shape is JoinShape.ASOF:
        return (
            f"SELECT l._row, {text_list(carried)} FROM {labels} l ASOF JOIN ({_latest_versions(view)}) f "
            f"ON {text_list(keys, ' AND ')} AND l.{time} >= f.event_ts"
        )
    if shape is JoinShape.RANGE:
        return (
            f"SELECT l._row, {text_list(carried)} FROM {labels} l JOIN {view.relation} f ON {condition} "
            f"QUALIFY row_number() OVER (PARTITION BY l._row ORDER BY {_NEWEST}) = 1"
        )
    return (
        f"SELECT l._row, f.* FROM {labels} l CROSS JOIN LATERAL (SELECT {text_list(carried)} FROM {view.relation} f "
        f"WHERE {condition} ORDER BY {_NEWEST} LIMIT 1) f"
    )


def _latest_versions(view: JoinView) -> str:
    keys = [f"f.{identifier(key)}" for key, _ in view.keys]
    columns = [*keys, "f.event_ts", *(f"f.{identifier(feature)}" for feature in view.features)]
    return (
        f"SELECT {text_list(columns)} FROM {view.relation} f WHERE f.event_ts IS NOT NULL "
        f"QUALIFY row_number() OVER (PARTITION BY {text_list([*keys, 'f.event_ts'])} "
        f"ORDER BY f.created_ts DESC NULLS LAST, f.seq DESC) = 1"
    )


def latest_rows_sql(relation: str, keys: Sequence[str], columns: Sequence[str], *, at: str | None = None) -> str:
    """Write the query for each entity's newest row, as the online store holds it.

    Args:
        relation: As in `JoinView`.
        keys: Key columns.
        columns: Further columns to give.
        at: SQL of a time after which rows do not count yet; None for all.
    """
    names = [identifier(name) for name in keys]
    shown = [f"f.{name}" for name in names]
    shown += [f"f.{identifier(name)}" for name in ("event_ts", "created_ts", "seq", *columns)]
    conditions = ["f.event_ts IS NOT NULL", *(f"f.{name} IS NOT NULL" for name in names)]
    if at is not None:
        conditions.append(f"f.event_ts <= {at}")
    return (
        f"SELECT {text_list(shown)} FROM {relation} f WHERE {text_list(conditions, ' AND ')} "
        f"QUALIFY row_number() OVER (PARTITION BY {text_list([f'f.{name}' for name in names])} "
        f"ORDER BY {_NEWEST}) = 1"
    )
