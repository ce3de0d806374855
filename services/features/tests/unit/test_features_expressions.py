"""On-demand expressions: what they may say, and that one row and many rows give the same bits."""

import numpy as np
import pytest
from clave_features.domain.errors import ExpressionInvalid
from clave_features.domain.expressions import Expression
from hypothesis import given, settings
from hypothesis import strategies as st

numbers = st.one_of(st.floats(allow_nan=True, allow_infinity=False), st.integers(-5, 5).map(float))
TEXT = "(a - b) / max(abs(b), 1) + sqrt(a * a) if a < b else coalesce(a, 0.5) * -min(b, 3)"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40))
def test_one_row_equals_the_bulk_to_the_last_bit(rows):
    expression = Expression(TEXT)
    table = np.array(rows, dtype=np.float64)
    bulk = expression.evaluate({"a": table[:, 0], "b": table[:, 1]}, len(rows))
    single = [expression.evaluate({"a": row[:1], "b": row[1:]}, 1)[0] for row in table]
    np.testing.assert_array_equal(bulk, np.array(single))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a + 1", 3.0),
        ("a / 0", None),
        ("a == 2", 1.0),
        ("1 if a > 2 else 7", 7.0),
        ("coalesce(n, a)", 2.0),
        ("n + 1", None),
    ],
)
def test_value(text, wanted):
    found = Expression(text).evaluate({"a": np.array([2.0]), "n": np.array([np.nan])}, 1)[0]
    assert np.isnan(found) if wanted is None else found == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a +",
        "__import__('os')",
        "a.b",
        "a ** 2",
        "[a]",
        "lambda: a",
        "abs(a, a)",
        "abs(x=a)",
        "'text'",
        "a < b < 3",
        "open(a)",
        "a" + "+a" * 2000,
        "-" * 60 + "a",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ExpressionInvalid):
        Expression(text)


def test_inputs_are_the_names_it_reads():
    assert Expression("a / max(b, 1)").inputs == {"a", "b"}
