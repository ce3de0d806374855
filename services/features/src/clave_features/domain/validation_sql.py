"""Validation rules compiled to one pass over a staged upload.

The pass casts each source column to its declared type and computes a bit mask per row: bit n is set when check n
failed. A predicate that gives null counts as failed. Rows with an empty mask are accepted, the others quarantined with
the reasons their bits stand for. A value that is there but cannot be cast fails the check `type` of its field; an
int64 is never rounded into shape, a bool is only 0, 1 or one of the usual words.
"""
# ruff: noqa: S608 - SQL is this module's product; names and literals are quoted by `domain.sql`.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clave_features.domain.definitions import Entity, Feature, View
from clave_features.domain.dtypes import SQL_TYPE, Dtype, Value
from clave_features.domain.rules import (
    Allowed,
    MissingShare,
    Outlier,
    OutlierMethod,
    Pattern,
    Range,
    Required,
    RowRule,
)
from clave_features.domain.sql import identifier, literal, text_list

EVENT_TS: Final = "event_ts"
CREATED_TS: Final = "created_ts"
BITS_PER_MASK: Final = 62
_FLOATING: Final = frozenset({"DOUBLE", "FLOAT"})
_TRUE: Final = "('true', 't', 'yes', 'y', '1', '1.0')"
_FALSE: Final = "('false', 'f', 'no', 'n', '0', '0.0')"


@dataclass(frozen=True, slots=True)
class Check:
    """One bit of the mask.

    Attributes:
        field: What is judged.
        rule: Stable name of the rule: type, required, range, allowed, pattern, outlier, key, event_time, future.
        reason: Why a row fails it, for people.
        predicate: SQL that is true for a row that passes, over the typed columns.
    """

    field: str
    rule: str
    reason: str
    predicate: str


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """The pass of one view over one upload.

    Attributes:
        checks: In the order of their bits.
        sql: SELECT over the staged table that gives `_row`, the typed columns and `_mask_<n>`; parameter 1 is the
            latest event time that is not in the future.
        columns: Typed columns in their order: keys, event_ts, created_ts, features.
        missing_limits: Feature, its source column and the greatest share of it that may be missing.
    """

    checks: tuple[Check, ...]
    sql: str
    columns: tuple[str, ...]
    missing_limits: tuple[tuple[str, str, float], ...]

    @property
    def masks(self) -> tuple[str, ...]:
        """Names of the mask columns; each holds `BITS_PER_MASK` bits."""
        return tuple(f"_mask_{number}" for number in range(-(-len(self.checks) // BITS_PER_MASK)))

    @property
    def failed(self) -> str:
        """SQL that is true for a row that fails any check."""
        return text_list([f"{mask} <> 0" for mask in self.masks], " OR ")

    def reasons(self, masks: Sequence[int]) -> list[Check]:
        """Give the checks that a row's masks say it failed."""
        return [
            check for bit, check in enumerate(self.checks) if masks[bit // BITS_PER_MASK] >> (bit % BITS_PER_MASK) & 1
        ]


def required_columns(view: View, entity: Entity) -> list[str]:
    """List the source columns an upload must have, in order."""
    columns = [*entity.key_names, view.timestamp_column]
    if view.created_column is not None:
        columns.append(view.created_column)
    return columns + [one.column for one in view.stored]


def validation_plan(view: View, entity: Entity, *, staged: str, source_types: Mapping[str, str]) -> ValidationPlan:
    """Compile the rules of a view.

    Args:
        view: Whose rules.
        entity: Whose keys.
        staged: SQL name of the upload; has `_row` and the source columns.
        source_types: DuckDB type of each source column.
    """
    typed, checks = _typed_columns(view, entity, source_types)
    for one in view.stored:
        checks += _rule_checks(one)
    bounds = _outlier_bounds(view)
    masks = [
        f"{_mask(checks[start : start + BITS_PER_MASK])} AS _mask_{start // BITS_PER_MASK}"
        for start in range(0, len(checks), BITS_PER_MASK)
    ]
    columns = [name for name, _, _ in typed]
    selected = [
        f"{expression} AS {identifier(name)}, {given} AS {identifier('_given_' + name)}"
        for name, expression, given in typed
    ]
    shown = ["t._row", *(f"t.{identifier(name)}" for name in columns), *masks]
    sql = (
        f"WITH typed AS (SELECT _row, {text_list(selected)} FROM {staged}),\n"
        f"bounds AS (SELECT {text_list(['count(*) AS _rows', *bounds])} FROM typed)\n"
        f"SELECT {text_list(shown)} FROM typed t CROSS JOIN bounds b ORDER BY t._row"
    )
    limits = tuple(
        (one.name, one.column, rule.maximum)
        for one in view.stored
        for rule in one.rules
        if isinstance(rule, MissingShare)
    )
    return ValidationPlan(tuple(checks), sql, tuple(columns), limits)


def _mask(checks: Sequence[Check]) -> str:
    bits = [
        f"CASE WHEN coalesce({check.predicate}, FALSE) THEN 0 ELSE {1 << bit} END" for bit, check in enumerate(checks)
    ]
    return f"CAST({text_list(bits, ' + ')} AS BIGINT)"


def _typed_columns(
    view: View, entity: Entity, types: Mapping[str, str]
) -> tuple[list[tuple[str, str, str]], list[Check]]:
    """Give (name, cast, given) per column and the checks of keys, times and types."""
    typed: list[tuple[str, str, str]] = []
    checks: list[Check] = []

    def add(name: str, column: str, dtype: Dtype) -> None:
        cast, given = _cast(identifier(column), types[column], dtype)
        typed.append((name, cast, given))
        there, value = f"t.{identifier('_given_' + name)}", f"t.{identifier(name)}"
        reason = f"'{column}' is not of type {dtype}"
        checks.append(Check(name, "type", reason, f"NOT {there} OR {value} IS NOT NULL"))

    for key, dtype in entity.keys:
        add(key, key, dtype)
        checks.append(Check(key, "key", f"key '{key}' is missing", f"t.{identifier(key)} IS NOT NULL"))
    add(EVENT_TS, view.timestamp_column, Dtype.TIMESTAMP)
    checks.append(Check(EVENT_TS, "event_time", "the event time is missing", f"t.{EVENT_TS} IS NOT NULL"))
    future = f"t.{EVENT_TS} IS NULL OR t.{EVENT_TS} <= $1"
    checks.append(Check(EVENT_TS, "future", "the event time lies in the future", future))
    if view.created_column is not None:
        add(CREATED_TS, view.created_column, Dtype.TIMESTAMP)
    for one in view.stored:
        add(one.name, one.column, one.dtype)
    return typed, checks


def _cast(column: str, source: str, dtype: Dtype) -> tuple[str, str]:
    """Give the SQL of the typed value and of whether a value was there at all."""
    given = f"{column} IS NOT NULL"
    target = SQL_TYPE[dtype]
    if dtype is Dtype.INT64 and source in _FLOATING:
        whole = f"{column} = trunc({column}) AND abs({column}) < 9.2e18"
        return f"CASE WHEN {whole} THEN TRY_CAST({column} AS BIGINT) END", f"{given} AND NOT isnan({column})"
    if dtype is Dtype.INT64 and source == "VARCHAR":
        whole = f"regexp_full_match(trim({column}), '[+-]?[0-9]+(\\.0*)?')"
        text = f"split_part(trim({column}), '.', 1)"
        return f"CASE WHEN {whole} THEN TRY_CAST({text} AS BIGINT) END", given
    if dtype is Dtype.BOOL and source != "BOOLEAN":
        text = f"lower(trim(CAST({column} AS VARCHAR)))"
        return f"CASE WHEN {text} IN {_TRUE} THEN TRUE WHEN {text} IN {_FALSE} THEN FALSE END", given
    return f"TRY_CAST({column} AS {target})", given


def _rule_checks(one: Feature) -> Iterator[Check]:
    for rule in one.rules:
        if isinstance(rule, MissingShare):
            continue
        name, reason, predicate = _rule(one, rule)
        if one.nullable and not isinstance(rule, Required):
            predicate = f"t.{identifier(one.name)} IS NULL OR ({predicate})"
        yield Check(one.name, name, rule.reason or reason, predicate)


def _rule(one: Feature, rule: RowRule) -> tuple[str, str, str]:
    value = f"t.{identifier(one.name)}"
    if isinstance(rule, Required):
        return "required", f"'{one.name}' is missing", f"{value} IS NOT NULL"
    if isinstance(rule, Range):
        return "range", _range_reason(one, rule), _range_predicate(value, rule)
    if isinstance(rule, Allowed):
        members = text_list([literal(_allowed_value(one, member)) for member in rule.values])
        return "allowed", f"'{one.name}' is not one of {list(rule.values)}", f"{value} IN ({members})"
    if isinstance(rule, Pattern):
        return (
            "pattern",
            f"'{one.name}' does not match {rule.regex}",
            f"regexp_full_match({value}, {literal(rule.regex)})",
        )
    low, high, count = (f"b.{identifier(f'_{part}_{one.name}')}" for part in ("low", "high", "count"))
    reason = f"'{one.name}' lies more than {rule.bound} {_OUTLIER_UNIT[rule.method]} outside its batch"
    return "outlier", reason, f"{count} < {rule.rows_min} OR {value} BETWEEN {low} AND {high}"


_OUTLIER_UNIT: Final = {OutlierMethod.IQR: "interquartile ranges", OutlierMethod.Z_SCORE: "standard deviations"}


def _allowed_value(one: Feature, member: Value) -> Value:
    return bool(member) if one.dtype is Dtype.BOOL else member


def _range_reason(one: Feature, rule: Range) -> str:
    low = "-infinity" if rule.minimum is None else f"{rule.minimum:g}"
    high = "infinity" if rule.maximum is None else f"{rule.maximum:g}"
    return f"'{one.name}' is not within [{low}, {high}]"


def _range_predicate(value: str, rule: Range) -> str:
    parts = [f"isfinite(CAST({value} AS DOUBLE))"]
    if rule.minimum is not None:
        parts.append(f"{value} >= {literal(rule.minimum)}")
    if rule.maximum is not None:
        parts.append(f"{value} <= {literal(rule.maximum)}")
    return text_list(parts, " AND ")


def _outlier_bounds(view: View) -> Iterator[str]:
    for one in view.stored:
        for rule in one.rules:
            if isinstance(rule, Outlier):
                yield from _bounds_of(one, rule)


def _bounds_of(one: Feature, rule: Outlier) -> Iterator[str]:
    number = f"CAST({identifier(one.name)} AS DOUBLE)"
    finite = f"CASE WHEN isfinite({number}) THEN {number} END"
    if rule.method is OutlierMethod.IQR:
        first, third = f"quantile_cont({finite}, 0.25)", f"quantile_cont({finite}, 0.75)"
        low = f"{first} - {rule.bound} * ({third} - {first})"
        high = f"{third} + {rule.bound} * ({third} - {first})"
    else:
        low = f"avg({finite}) - {rule.bound} * stddev_samp({finite})"
        high = f"avg({finite}) + {rule.bound} * stddev_samp({finite})"
    yield f"{low} AS {identifier(f'_low_{one.name}')}"
    yield f"{high} AS {identifier(f'_high_{one.name}')}"
    yield f"count({finite}) AS {identifier(f'_count_{one.name}')}"
