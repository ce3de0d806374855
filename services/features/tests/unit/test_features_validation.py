"""The compiled pass says the same as judging each row by hand."""

import math

import duckdb
import pyarrow as pa
import pytest
from clave_contracts import features as wire
from clave_features.converters import to_repository
from clave_features.domain.validation_sql import required_columns, validation_plan
from hypothesis import given, settings
from hypothesis import strategies as st


def _repository(rules, dtype="float64", *, nullable=False, levels=None, extra=0):
    features = [wire.Feature(name="x", dtype=dtype, nullable=nullable, levels=levels)]
    features += [wire.Feature(name=f"e{n}", dtype="float64") for n in range(extra)]
    rules = [wire.Rule(column="x", **rule) for rule in rules]
    rules += [wire.Rule(column=f"e{n}", kind="not_null") for n in range(extra)]
    view = wire.FeatureView(name="v", entity="e", features=features, rules=rules)
    return to_repository([wire.Entity(name="e", join_keys={"k": "int64"})], [view], [])


def _judge(repository, columns, kinds=None):
    view, entity = repository.view("v"), repository.entity("e")
    rows = len(next(iter(columns.values())))
    table = {"k": ["1"] * rows, "event_ts": ["2026-01-01T00:00:00Z"] * rows, **columns}
    arrays = {name: pa.array(values, (kinds or {}).get(name)) for name, values in table.items()}
    connection = duckdb.connect()
    connection.execute("SET TimeZone='UTC'; SET threads=1")
    connection.register("t", pa.table({"_row": list(range(rows)), **arrays}))
    connection.execute("CREATE TABLE staged AS SELECT * FROM t")
    types = {row[0]: row[1] for row in connection.execute("DESCRIBE staged").fetchall() if row[0] != "_row"}
    assert set(types) == set(required_columns(view, entity))
    plan = validation_plan(view, entity, staged="staged", source_types=types)
    connection.execute(f"CREATE TABLE judged AS {plan.sql}", ["2026-06-01 00:00:00+00"])
    found = connection.execute(f"SELECT {', '.join(plan.masks)} FROM judged ORDER BY _row").fetchall()
    values = connection.execute('SELECT "x" FROM judged ORDER BY _row').fetchall()
    assert len(found) == rows
    return [{one.rule for one in plan.reasons(row)} for row in found], [row[0] for row in values]


numbers = st.one_of(st.none(), st.floats(), st.integers(-20, 20).map(float))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(numbers, min_size=1, max_size=20), st.booleans())
def test_range_and_set_equal_a_judgement_by_hand(values, nullable):
    rules = [{"kind": "range", "min": -5, "max": 5}, {"kind": "set", "values": [1.0, 2.0, -7.0]}]
    found, _ = _judge(_repository(rules, nullable=nullable), {"x": values}, {"x": pa.float64()})
    for value, failed in zip(values, found, strict=True):
        wanted = set()
        if value is None:
            wanted = set() if nullable else {"range", "allowed"}
        else:
            if not (math.isfinite(value) and -5 <= value <= 5):
                wanted.add("range")
            if value not in (1.0, 2.0, -7.0):
                wanted.add("allowed")
        assert failed == wanted, value


@pytest.mark.parametrize(
    ("dtype", "kind", "value", "wanted"),
    [
        ("int64", pa.string(), "9007199254740993", 9007199254740993),
        ("int64", pa.string(), "5.0", 5),
        ("int64", pa.string(), "1.5", "type"),
        ("int64", pa.string(), "9223372036854775808", "type"),
        ("int64", pa.float64(), 1.5, "type"),
        ("int64", pa.float64(), float("nan"), None),
        ("bool", pa.string(), "Yes", True),
        ("bool", pa.int64(), 0, False),
        ("bool", pa.int64(), 2, "type"),
        ("float64", pa.string(), "x", "type"),
        ("float64", pa.string(), "1e3", 1000.0),
        ("string", pa.int64(), 7, "7"),
        ("string", pa.string(), "", ""),
    ],
)
def test_a_value_is_cast_exactly_or_fails_its_type(dtype, kind, value, wanted):
    found, values = _judge(_repository([], dtype), {"x": [value]}, {"x": kind})
    if wanted == "type":
        assert (found, values) == ([{"type"}], [None])
    else:
        assert found == [set()]
        assert values == [wanted]
        assert type(values[0]) is type(wanted)


def test_more_checks_than_one_mask_holds_are_told_apart():
    repository = _repository([{"kind": "not_null"}], extra=70)
    columns = {"x": [1.0, None]} | {f"e{n}": [1.0, 1.0] for n in range(70)}
    columns["e69"] = [None, 1.0]
    found, _ = _judge(repository, columns, {"e69": pa.float64()})
    assert found == [{"required"}, {"required"}]


@pytest.mark.parametrize("rule", [{"kind": "outlier", "iqr": 3.0}, {"kind": "outlier", "sigmas": 4.0}])
def test_an_outlier_is_far_from_its_batch_and_small_batches_have_none(rule):
    bulk = [float(n % 10) for n in range(200)]
    found, _ = _judge(_repository([rule]), {"x": [*bulk, 1e6]})
    assert [bool(one) for one in found] == [False] * 200 + [True]
    found, _ = _judge(_repository([rule]), {"x": [1.0, 1.0, 1e6]})
    assert found == [set(), set(), set()]


def test_patterns_match_the_whole_text():
    found, _ = _judge(_repository([{"kind": "regex", "pattern": "[a-z]+"}], "string"), {"x": ["abc", "abc1", ""]})
    assert [bool(one) for one in found] == [False, True, True]
