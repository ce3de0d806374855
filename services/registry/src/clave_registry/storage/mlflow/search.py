"""Turns parsed search expressions into SQL, and orders into pages that continue after a row instead of an offset.

Every term of an order is an expression that is never NULL; a value that may be missing becomes a rank (there, NaN,
missing) and a value. A page's token is the last row's terms.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clave_common.database import Transaction
from clave_common.errors import InvalidArgument
from clave_common.pages import bad_token, decode_token, encode_token
from sqlalchemy import (
    Boolean,
    ColumnElement,
    DateTime,
    Float,
    Integer,
    Numeric,
    Row,
    RowMapping,
    Select,
    String,
    and_,
    case,
    func,
    literal,
    or_,
)
from sqlalchemy.dialects.postgresql import JSONB

from clave_registry.domain.filters import Condition, Kind, Order, Value

Expression = ColumnElement[Any]
# What a part of a page token may be, by the type of the column that it is compared with.
_PARTS: tuple[tuple[type, tuple[type, ...]], ...] = (
    (Boolean, (bool,)),
    (Integer, (int,)),
    (Numeric, (int, float)),
    (Float, (int, float)),
    (String, (str,)),
)
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Binding:
    """What the keys of a search mean in SQL.

    Attributes:
        attributes: Expression of each attribute.
        order: Expression to order by, where it is another one (one that an index keeps in order).
        tags: The JSONB column of tags.
        params: The JSONB column of params, where there is one.
        metric: Condition on a metric: (key, op, value) -> SQL.
        metric_terms: (key) -> (rank, value) of a metric, for ordering.
        dataset: Condition on a run's datasets: (key, op, value) -> SQL.
        default_tags: Tags that count as present with this value when they are absent.
    """

    attributes: Mapping[str, Expression]
    tags: Expression
    order: Mapping[str, Expression] | None = None
    params: Expression | None = None
    metric: Callable[[str, str, float], ColumnElement[bool]] | None = None
    metric_terms: Callable[[str], tuple[Expression, Expression]] | None = None
    dataset: Callable[[str, str, Value], ColumnElement[bool]] | None = None
    default_tags: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A search as it came over the wire, parsed.

    Attributes:
        tenant: Whose rows.
        conditions: All of them must hold.
        orders: What the caller wants to order by, before the default order.
        size: Rows of a page.
        token: Of the page before; None for the first.
        query: What was asked, in one text; a token of another query is refused.
    """

    tenant: str
    conditions: Sequence[Condition]
    orders: Sequence[Order]
    size: int
    token: str | None
    query: str


@dataclass(frozen=True, slots=True)
class Term:
    """One expression to order by; never NULL."""

    expression: Expression
    descending: bool = False


def condition(found: Condition, binding: Binding) -> ColumnElement[bool]:
    """Write one condition as SQL; a row without the key never matches."""
    match found.kind:
        case Kind.ATTRIBUTE:
            return compared(binding.attributes[found.key], found.op, found.value)
        case Kind.METRIC if binding.metric is not None and isinstance(found.value, float):
            return binding.metric(found.key, found.op, found.value)
        case Kind.DATASET if binding.dataset is not None:
            return binding.dataset(found.key, found.op, found.value)
        case Kind.PARAM if binding.params is not None:
            return _keyed(binding.params, found)
        case Kind.TAG:
            default = (binding.default_tags or {}).get(found.key)
            if default is not None and found.op == "!=":
                return func.coalesce(binding.tags[found.key].astext, default) != found.value
            return _keyed(binding.tags, found)
    raise InvalidArgument(f"'{found.kind}' is nothing to search by.", field="filter")


def _keyed(column: Expression, found: Condition) -> ColumnElement[bool]:
    if found.op == "=":
        contained: ColumnElement[bool] = column.op("@>", is_comparison=True)(literal({found.key: found.value}, JSONB))
        return contained
    return compared(column[found.key].astext, found.op, found.value)


def compared(expression: Expression, op: str, value: Value) -> ColumnElement[bool]:
    """Write a comparison."""
    if op == "IS NULL":
        return expression.is_(None)
    if op == "IS NOT NULL":
        return expression.isnot(None)
    if isinstance(value, tuple):
        return expression.in_(value) if op == "IN" else expression.notin_(value)
    if op == "LIKE":
        return expression.like(value)
    if op == "ILIKE":
        return expression.ilike(value)
    found: ColumnElement[bool] = _SIGNS[op](expression, value)
    return found


def terms_of(orders: Sequence[Order], binding: Binding) -> list[Term]:
    """Write an order as terms; missing values and NaN come last whichever way it goes."""
    terms: list[Term] = []
    for order in orders:
        if order.kind is Kind.ATTRIBUTE:
            found = (binding.order or {}).get(order.key, binding.attributes[order.key])
            terms += _nullable(found, order.descending)
        elif order.kind is Kind.METRIC and binding.metric_terms is not None:
            rank, value = binding.metric_terms(order.key)
            terms += [Term(rank), Term(value, order.descending)]
        else:
            column = binding.params if order.kind is Kind.PARAM else binding.tags
            if column is None or order.kind is Kind.DATASET:
                raise InvalidArgument(f"Nothing can be ordered by '{order.kind}'.", field="order_by")
            value = column[order.key].astext
            terms += [Term(case((value.is_(None), 1), else_=0)), Term(func.coalesce(value, ""), order.descending)]
    return terms


def _nullable(expression: Expression, descending: bool) -> list[Term]:  # noqa: FBT001 - one leaf, one caller
    if getattr(expression, "nullable", False):
        rank = case((expression.is_(None), 1), else_=0)
        return [Term(rank), Term(func.coalesce(expression, 0), descending)]
    return [Term(expression, descending)]


async def page(
    tx: Transaction, statement: Select[Any], terms: Sequence[Term], asked: Asked
) -> tuple[list[Row[Any]], str]:
    """Read one page.

    Args:
        tx: The operation's transaction.
        statement: What to select, with its conditions.
        terms: The order; the last one is unique.
        asked: Size, token and text of the query.

    Returns:
        The rows, with the terms after what was selected, and the token of the next page (empty on the last).
    """
    labelled = [term.expression.label(f"order_{number}") for number, term in enumerate(terms)]
    statement = statement.add_columns(*labelled)
    if asked.token:
        position = decode_token(asked.token, query=asked.query, kinds=None)
        if len(position) != len(terms):
            raise bad_token()
        statement = statement.where(_after(terms, position))
    ordered = [term.expression.desc() if term.descending else term.expression.asc() for term in terms]
    rows = list((await tx.session.execute(statement.order_by(*ordered).limit(asked.size + 1))).all())
    shown = rows[: asked.size]
    if len(rows) <= asked.size:
        return shown, ""
    return shown, encode_token([_portable(value) for value in shown[-1][-len(terms) :]], query=asked.query)


async def mapped_page(
    tx: Transaction, statement: Select[Any], terms: Sequence[Term], asked: Asked
) -> tuple[list[RowMapping], str]:
    """Read one page of rows whose columns are asked for by name."""
    rows, following = await page(tx, statement, terms, asked)
    return [row._mapping for row in rows], following  # noqa: SLF001 - SQLAlchemy's public name for it


def _portable(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _native(term: Term, value: Any) -> Any:
    """Read one part of a token as its term's type; no other type is compared."""
    kind = term.expression.type
    try:
        if isinstance(kind, DateTime):
            return datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise bad_token() from error
    wanted = next((parts for column, parts in _PARTS if isinstance(kind, column)), (str, int, float, bool))
    if value is not None and type(value) not in wanted:
        raise bad_token()
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise bad_token()
    return value


def _after(terms: Sequence[Term], place: Sequence[Any]) -> ColumnElement[bool]:
    """Write "after this place" so that an index on the first term is entered there and not at its beginning."""
    position = [_native(term, value) for term, value in zip(terms, place, strict=True)]
    first = terms[0].expression
    bound = first <= position[0] if terms[0].descending else first >= position[0]
    clauses: list[ColumnElement[bool]] = []
    for number, term in enumerate(terms):
        equal = [other.expression == position[i] for i, other in enumerate(terms[:number])]
        value = position[number]
        beyond = term.expression < value if term.descending else term.expression > value
        clauses.append(and_(*equal, beyond))
    return and_(bound, or_(*clauses))


def epoch_ms(moment: Expression) -> Expression:
    """Write a timestamp as MLflow's epoch milliseconds."""
    milliseconds: Expression = func.floor(func.extract("epoch", moment).cast(Float) * 1000)
    return milliseconds
