"""On-demand expressions: arithmetic over stored features, the same offline and online.

The grammar is the arithmetic part of Python's: numbers, features of the same view, ``+ - * /``, unary minus,
comparisons (giving 1 or 0), ``a if condition else b``, and the functions of `FUNCTIONS`. One evaluator (numpy,
float64) computes training sets and online answers alike, so there is no second implementation to differ from. A null
is NaN and spreads; a result that is not finite is null. No name reaches anything but a declared feature.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from clave_features.domain.errors import ExpressionInvalid

Column = npt.NDArray[np.float64]

LENGTH_MAX: Final = 2_000
DEPTH_MAX: Final = 50

_BINARY: Final[dict[type[ast.operator], Callable[[Column, Column], Column]]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Column, Column], npt.NDArray[np.bool_]]]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def _coalesce(first: Column, second: Column) -> Column:
    return np.where(np.isnan(first), second, first)


FUNCTIONS: Final[dict[str, tuple[int, Callable[..., Column]]]] = {
    "abs": (1, np.abs),
    "sqrt": (1, np.sqrt),
    "floor": (1, np.floor),
    "ceil": (1, np.ceil),
    "min": (2, np.minimum),
    "max": (2, np.maximum),
    "coalesce": (2, _coalesce),
}
"""Name to number of arguments and numpy function; only such that IEEE 754 defines to the last bit."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression.

    Attributes:
        text: As written.
        inputs: Names of the features it reads.

    Raises:
        ExpressionInvalid: The text is not an expression of the grammar.
    """

    text: str
    inputs: frozenset[str] = field(init=False)
    _tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tree = _parse(self.text)
        found: set[str] = set()
        _check(tree, found, self.text, depth=0)
        object.__setattr__(self, "_tree", tree)
        object.__setattr__(self, "inputs", frozenset(found))

    def evaluate(self, columns: Mapping[str, Column], rows: int) -> Column:
        """Compute the feature.

        Args:
            columns: For each input its float64 values, shape (rows,), NaN where null.
            rows: Number of rows.

        Returns:
            float64, shape (rows,); NaN where the result is null or not finite.
        """
        with np.errstate(all="ignore"):
            result = np.broadcast_to(_evaluate(self._tree, columns), (rows,)).astype(np.float64)
        result[~np.isfinite(result)] = np.nan
        return result


def _parse(text: str) -> ast.expr:
    if len(text) > LENGTH_MAX:
        raise ExpressionInvalid(f"An expression has at most {LENGTH_MAX} characters.", limit=LENGTH_MAX)
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionInvalid(f"'{text}' is not an expression: {error}.", expression=text) from error


def _refuse(node: ast.AST, text: str) -> ExpressionInvalid:
    part = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
    functions = ", ".join(sorted(FUNCTIONS))
    return ExpressionInvalid(
        f"'{part}' is not allowed in an expression; there are numbers, features, + - * /, comparisons, "
        f"'a if condition else b' and {functions}.",
        expression=text,
    )


def _check(node: ast.expr, found: set[str], text: str, *, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise ExpressionInvalid(f"An expression nests at most {DEPTH_MAX} deep.", expression=text)
    if isinstance(node, ast.Name):
        found.add(node.id)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return
    for child in _children(node, text):
        _check(child, found, text, depth=depth + 1)


def _children(node: ast.expr, text: str) -> list[ast.expr]:
    match node:
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
            return [left, right]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return [operand]
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _COMPARISONS:
            return [left, right]
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return [test, body, orelse]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            if len(arguments) == FUNCTIONS[name][0]:
                return arguments
    raise _refuse(node, text)


def _evaluate(node: ast.expr, columns: Mapping[str, Column]) -> Column:  # noqa: PLR0911 - one case per node
    match node:
        case ast.Constant(value=int() | float() as number):
            return np.asarray(number, dtype=np.float64)
        case ast.Name(id=feature):
            return columns[feature]
        case ast.BinOp(left=left, op=operator, right=right):
            return _BINARY[type(operator)](_evaluate(left, columns), _evaluate(right, columns))
        case ast.UnaryOp(operand=operand):
            return np.negative(_evaluate(operand, columns))
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            return _compare(operator, _evaluate(left, columns), _evaluate(right, columns))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            asked = _evaluate(test, columns)
            answer = np.where(asked != 0, _evaluate(body, columns), _evaluate(orelse, columns))
            return np.where(np.isnan(asked), np.nan, answer)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name][1](*(_evaluate(one, columns) for one in arguments))
    raise AssertionError(node)  # _check let through what _evaluate does not know


def _compare(operator: ast.cmpop, left: Column, right: Column) -> Column:
    answer = _COMPARISONS[type(operator)](left, right).astype(np.float64)
    return np.where(np.isnan(left) | np.isnan(right), np.nan, answer)
