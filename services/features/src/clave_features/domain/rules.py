"""Validation rules of a feature: what a value must be, for its row to be kept.

A row rule is judged per row; a row that fails one is quarantined with the reason. A batch rule (`MissingShare`) is
judged over the whole upload; an upload that fails one is refused and nothing of it is kept. A null satisfies no row
rule, unless the feature says `nullable`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from clave_features.domain.dtypes import Dtype, Value


class OutlierMethod(StrEnum):
    """How far a value may lie from the bulk of its batch."""

    IQR = "iqr"
    Z_SCORE = "z_score"


@dataclass(frozen=True, slots=True)
class Required:
    """The value must be there."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """The value must be finite and lie within the bounds, both inclusive, either absent."""

    minimum: float | None = None
    maximum: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The value must be one of these."""

    values: tuple[Value, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pattern:
    """The whole text must match this regular expression (RE2 syntax)."""

    regex: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outlier:
    """The value must not lie far outside the bulk of its own batch.

    With `iqr` the bounds are the quartiles widened by `bound` interquartile ranges (Tukey 1977, Exploratory Data
    Analysis, p. 44: 1.5 for outside, 3 for far out); with `z_score` the mean plus or minus `bound` standard
    deviations. Batches with fewer than `rows_min` values have no bulk to speak of and pass.
    """

    method: OutlierMethod
    bound: float
    rows_min: int = 30
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MissingShare:
    """At most this share of the batch's values may be missing, in [0, 1]."""

    maximum: float


RowRule = Required | Range | Allowed | Pattern | Outlier
Rule = RowRule | MissingShare


def rule_problems(rule: Rule, dtype: Dtype, *, where: str) -> list[str]:
    """List what is wrong with a rule on a feature of this type; empty when all is well."""
    if isinstance(rule, Required):
        return []
    if isinstance(rule, Range):
        return _range_problems(rule, dtype, where)
    if isinstance(rule, Allowed):
        return _allowed_problems(rule, dtype, where)
    if isinstance(rule, Pattern):
        return _pattern_problems(rule, dtype, where)
    if isinstance(rule, Outlier):
        return _outlier_problems(rule, dtype, where)
    return [] if 0 <= rule.maximum <= 1 else [f"{where}: a missing share lies between 0 and 1"]


def _range_problems(rule: Range, dtype: Dtype, where: str) -> list[str]:
    if not dtype.is_numeric:
        return [f"{where}: a range needs a number, not {dtype}"]
    if rule.minimum is None and rule.maximum is None:
        return [f"{where}: a range needs a minimum or a maximum"]
    if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
        return [f"{where}: the minimum {rule.minimum} lies above the maximum {rule.maximum}"]
    return []


def _allowed_problems(rule: Allowed, dtype: Dtype, where: str) -> list[str]:
    if not rule.values:
        return [f"{where}: an allowed set cannot be empty"]
    wanted: tuple[type, ...] = (int, float)
    if dtype in {Dtype.STRING, Dtype.CATEGORY}:
        wanted = (str,)
    elif dtype is Dtype.BOOL:
        wanted = (bool, int)
    elif not dtype.is_numeric:
        return [f"{where}: an allowed set needs a number, text or bool, not {dtype}"]
    wrong = [value for value in rule.values if not isinstance(value, wanted)]
    return [f"{where}: {value!r} in the allowed set is not of type {dtype}" for value in wrong]


def _pattern_problems(rule: Pattern, dtype: Dtype, where: str) -> list[str]:
    if dtype not in {Dtype.STRING, Dtype.CATEGORY}:
        return [f"{where}: a pattern needs text, not {dtype}"]
    try:
        re.compile(rule.regex)
    except re.error as error:
        return [f"{where}: the pattern is no regular expression ({error})"]
    return []


def _outlier_problems(rule: Outlier, dtype: Dtype, where: str) -> list[str]:
    problems = [] if dtype.is_numeric else [f"{where}: an outlier rule needs a number, not {dtype}"]
    if rule.bound <= 0:
        problems.append(f"{where}: the bound of an outlier rule must be above 0")
    return problems
