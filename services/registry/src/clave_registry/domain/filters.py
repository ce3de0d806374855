"""MLflow's search expressions: ``<key> <op> <value> [AND ...]`` and ``<key> [ASC|DESC]``.

No OR, no nesting. Keys with odd characters stand in backticks or double quotes. Every token is matched once, left to
right, so no input takes more than linear time; every refusal names the position of the fault. What the database would
have to work through is bounded too: conditions, values of a list, wildcards of a pattern, terms of an order.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from clave_common.errors import InvalidArgument

FILTER_CHARACTERS_MAX = 20_000
CONDITIONS_MAX = 100
LIST_VALUES_MAX = 1_000
WILDCARDS_MAX = 20
ORDER_TERMS_MAX = 20
ORDER_CHARACTERS_MAX = 1_000

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<text>'[^']*'|"[^"]*")
      | (?P<op><=|>=|!=|<>|=|<|>)
      | (?P<open>\()
      | (?P<close>\))
      | (?P<comma>,)
      | (?P<key>[A-Za-z_]\w*(?:\.(?:`[^`]*`|"[^"]*"|[\w\-./:]+))?|`[^`]*`)
    )""",
    re.VERBOSE,
)
_WORDS = frozenset({"and", "or", "like", "ilike", "in", "not", "is", "null", "asc", "desc"})


class Kind(StrEnum):
    """What a key belongs to."""

    ATTRIBUTE = "attribute"
    TAG = "tag"
    PARAM = "param"
    METRIC = "metric"
    DATASET = "dataset"


class BadFilter(InvalidArgument):
    """A search expression that is not in the grammar; says where."""

    code = "bad_filter"


TEXT_OPS = frozenset({"=", "!=", "LIKE", "ILIKE"})
SET_OPS = frozenset({"IN", "NOT IN"})
NULL_OPS = frozenset({"IS NULL", "IS NOT NULL"})
NUMBER_OPS = frozenset({"=", "!=", "<", "<=", ">", ">="})
Value = str | float | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Grammar:
    """What one kind of thing can be searched by.

    Attributes:
        text: Attributes with text values, and their operators.
        numbers: Attributes with number values.
        kinds: Kinds of prefixed keys and their operators; ``metric`` takes numbers.
        prefixes: Spelling of each prefix.
    """

    text: Mapping[str, frozenset[str]]
    numbers: frozenset[str]
    kinds: Mapping[Kind, frozenset[str]]
    prefixes: Mapping[str, Kind] = field(
        default_factory=lambda: {
            "attribute": Kind.ATTRIBUTE,
            "attributes": Kind.ATTRIBUTE,
            "attr": Kind.ATTRIBUTE,
            "run": Kind.ATTRIBUTE,
            "tag": Kind.TAG,
            "tags": Kind.TAG,
            "param": Kind.PARAM,
            "params": Kind.PARAM,
            "parameter": Kind.PARAM,
            "parameters": Kind.PARAM,
            "metric": Kind.METRIC,
            "metrics": Kind.METRIC,
            "dataset": Kind.DATASET,
            "datasets": Kind.DATASET,
        }
    )


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison; all of them must hold."""

    kind: Kind
    key: str
    op: str
    value: Value


@dataclass(frozen=True, slots=True)
class Order:
    """One term of an order."""

    kind: Kind
    key: str
    descending: bool


@dataclass(frozen=True, slots=True)
class _Token:
    form: str
    text: str
    at: int

    @property
    def word(self) -> str:
        return self.text.lower() if self.form == "key" and self.text.lower() in _WORDS else ""


class _Cursor:
    """Walks over tokens and complains with positions."""

    def __init__(self, source: str, *, what: str, characters_max: int) -> None:
        self.source = source
        self._what = what
        if len(source) > characters_max:
            raise self.fault(characters_max, f"more than {characters_max} characters")
        if (nul := source.find("\0")) >= 0:
            raise self.fault(nul, "a NUL character")
        self._tokens = list(self._split())
        self._next = 0

    def _split(self) -> Iterator[_Token]:
        position, end = 0, len(self.source.rstrip())
        while position < end:
            found = _TOKEN.match(self.source, position)
            if found is None or found.lastgroup is None:
                at = position + len(self.source[position:]) - len(self.source[position:].lstrip())
                raise self.fault(at, f"unexpected '{self.source[at : at + 20]}'")
            yield _Token(found.lastgroup, found.group(found.lastgroup), found.start(found.lastgroup))
            position = found.end()

    def peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def take(self, what: str) -> _Token:
        token = self.peek()
        if token is None:
            raise self.fault(len(self.source), f"ends where {what} is expected")
        self._next += 1
        return token

    def take_word(self, word: str) -> bool:
        token = self.peek()
        if token is not None and token.word == word:
            self._next += 1
            return True
        return False

    def fault(self, at: int, why: str) -> BadFilter:
        shown = self.source[max(0, at - 20) : at + 20].replace("\0", "?")
        near = f" (near '{shown}')" if shown else ""
        return BadFilter(f"Invalid {self._what} at position {at}: {why}{near}.", field=self._what, position=at)


def parse_filter(source: str | None, grammar: Grammar) -> list[Condition]:
    """Parse a filter.

    Args:
        source: The expression; None or blank for no condition.
        grammar: What may be searched.

    Raises:
        BadFilter: It is not in the grammar.
    """
    if source is None or not source.strip():
        return []
    cursor = _Cursor(source, what="filter", characters_max=FILTER_CHARACTERS_MAX)
    conditions = [_condition(cursor, grammar)]
    while (token := cursor.peek()) is not None:
        if not cursor.take_word("and"):
            raise cursor.fault(token.at, f"only AND joins conditions, not '{token.text}'")
        conditions.append(_condition(cursor, grammar))
        if len(conditions) > CONDITIONS_MAX:
            raise cursor.fault(token.at, f"more than {CONDITIONS_MAX} conditions")
    return conditions


def parse_order(terms: Sequence[str], grammar: Grammar) -> list[Order]:
    """Parse the terms of an order; a key may come once.

    Raises:
        BadFilter: A term is not in the grammar, a key comes twice, or there are more than 20 terms.
    """
    orders: list[Order] = []
    for number, source in enumerate(terms):
        cursor = _Cursor(source, what=f"order_by[{number}]", characters_max=ORDER_CHARACTERS_MAX)
        if number == ORDER_TERMS_MAX:
            raise cursor.fault(0, f"more than {ORDER_TERMS_MAX} terms")
        token = cursor.take("a key")
        kind, key = _key(cursor, token, grammar)
        descending = not cursor.take_word("asc") and cursor.take_word("desc")
        extra = cursor.peek()
        if extra is not None:
            raise cursor.fault(extra.at, f"unexpected '{extra.text}' after the key")
        if any((order.kind, order.key) == (kind, key) for order in orders):
            raise cursor.fault(0, f"'{source}' orders by a key that came before")
        orders.append(Order(kind, key, descending))
    return orders


def _condition(cursor: _Cursor, grammar: Grammar) -> Condition:
    token = cursor.take("a key")
    kind, key = _key(cursor, token, grammar)
    operator = cursor.take("an operator")
    op = _operator(cursor, operator)
    numeric = kind is Kind.METRIC or (kind is Kind.ATTRIBUTE and key in grammar.numbers)
    allowed = NUMBER_OPS if numeric else grammar.text[key] if kind is Kind.ATTRIBUTE else grammar.kinds[kind]
    if op not in allowed:
        raise cursor.fault(operator.at, f"'{op}' cannot compare '{token.text}'")
    return Condition(kind, key, op, _value(cursor, op, numeric=numeric))


def _key(cursor: _Cursor, token: _Token, grammar: Grammar) -> tuple[Kind, str]:
    if token.form != "key" or token.word:
        raise cursor.fault(token.at, f"'{token.text}' is no key")
    prefix, dot, rest = token.text.partition(".") if not token.text.startswith("`") else ("", "", token.text)
    if not dot:
        kind, key = Kind.ATTRIBUTE, token.text.strip("`")
    else:
        found = grammar.prefixes.get(prefix.lower())
        if found is None or (found is not Kind.ATTRIBUTE and found not in grammar.kinds):
            raise cursor.fault(token.at, f"'{prefix}' is nothing to search by")
        kind, key = found, rest[1:-1] if rest[:1] in {"`", '"'} else rest
    known = key in grammar.text or key in grammar.numbers
    if (kind is Kind.ATTRIBUTE and not known) or not key:
        raise cursor.fault(token.at, f"'{key}' is no attribute to search by")
    return kind, key


def _operator(cursor: _Cursor, token: _Token) -> str:
    if token.form == "op":
        return "!=" if token.text == "<>" else token.text
    match token.word:
        case "like" | "ilike" | "in":
            return token.word.upper()
        case "not" if cursor.take_word("in"):
            return "NOT IN"
        case "is":
            negated = cursor.take_word("not")
            if cursor.take_word("null"):
                return "IS NOT NULL" if negated else "IS NULL"
    raise cursor.fault(token.at, f"'{token.text}' is no operator")


def _value(cursor: _Cursor, op: str, *, numeric: bool) -> Value:
    if op in NULL_OPS:
        return None
    if op in SET_OPS:
        return _list(cursor)
    token = cursor.take("a value")
    if numeric:
        if token.form != "number" or not math.isfinite(float(token.text)):
            raise cursor.fault(token.at, f"'{token.text[:40]}' is no number")
        return float(token.text)
    value = _text(cursor, token)
    if op in {"LIKE", "ILIKE"}:
        _require_pattern(cursor, token, value)
    return value


def _require_pattern(cursor: _Cursor, token: _Token, pattern: str) -> None:
    """Refuse what the database cannot match, or only slowly: every ``%`` may stand for any number of characters."""
    if pattern.count("%") > WILDCARDS_MAX:
        raise cursor.fault(token.at, f"the pattern has more than {WILDCARDS_MAX} '%'")
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise cursor.fault(token.at + len(pattern), "the pattern ends in a backslash that escapes nothing")


def _text(cursor: _Cursor, token: _Token) -> str:
    if token.form != "text":
        raise cursor.fault(token.at, f"'{token.text}' is no quoted text")
    return token.text[1:-1]


def _list(cursor: _Cursor) -> tuple[str, ...]:
    opening = cursor.take("'('")
    if opening.form != "open":
        raise cursor.fault(opening.at, "a list in parentheses is expected")
    values = [_text(cursor, cursor.take("a text"))]
    while True:
        token = cursor.take("',' or ')'")
        if token.form == "close":
            return tuple(values)
        if token.form != "comma":
            raise cursor.fault(token.at, "',' or ')' is expected")
        if len(values) == LIST_VALUES_MAX:
            raise cursor.fault(token.at, f"more than {LIST_VALUES_MAX} values")
        values.append(_text(cursor, cursor.take("a text")))
