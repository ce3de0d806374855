"""Every shape of the join gives the reference answers, and those of a brute-force join on random data."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest
from clave_features.domain.point_in_time import (
    JoinShape,
    JoinView,
    latest_rows_sql,
    point_in_time_sql,
    shape_for,
)
from hypothesis import given, settings
from hypothesis import strategies as st

CASES = json.loads((Path(__file__).parents[1] / "data" / "point_in_time_cases.json").read_text())["cases"]
ARROW = {"float64": pa.float64(), "int64": pa.int64(), "string": pa.string(), "bool": pa.bool_()}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _us(text):
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return (at - EPOCH) // timedelta(microseconds=1)


def _type_of(values, declared):
    if declared is not None:
        return ARROW[declared]
    first = next((value for value in values if value is not None), 0.0)
    kinds = {bool: "bool", int: "int64", float: "float64", str: "string"}
    return ARROW[kinds[type(first)]]


def _column(rows, name, declared=None):
    values = [row.get(name) for row in rows]
    kind = _type_of(values, declared)
    if kind == pa.float64():
        values = [float(value) if value is not None else None for value in values]
    return pa.array(values, kind)


def _times(values, zone="UTC"):
    return pa.array(values, pa.timestamp("us", tz=zone))


def _connect():
    connection = duckdb.connect()
    connection.execute("SET TimeZone='UTC'; SET threads=1")
    return connection


def _run(case, shape):
    connection = _connect()
    label_types, joins = {}, []
    for view in case["views"]:
        rows, types = view["rows"], view.get("types", {})
        columns = {"event_ts": _times([_us(row["event_ts"]) for row in rows])}
        columns["created_ts"] = _times([_us(row.get("created_ts")) for row in rows])
        columns["seq"] = pa.array(range(len(rows)), pa.int64())
        key_map = view.get("key_map") or {}
        for name in (*view["keys"], *view["features"]):
            columns[name] = _column(rows, name, types.get(name))
        for key in view["keys"]:
            label_types.setdefault(key_map.get(key, key), columns[key].type if rows else types.get(key))
        connection.register("view_" + view["name"], pa.table(columns))
        keys = tuple((key, key_map.get(key, key)) for key in view["keys"])
        joins.append(JoinView(view["name"], "view_" + view["name"], keys, tuple(view["features"]), view["ttl_us"]))
    time, rows = case["labels"]["time"], case["labels"]["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row if name != time))
    labels = {"_row": pa.array(range(len(rows)), pa.int64())}
    for name in names:
        kind = label_types.get(name)
        values = [row.get(name) for row in rows]
        labels[name] = pa.array(values, kind) if isinstance(kind, pa.DataType) else _column(rows, name, kind)
    labels[time] = _times([_us(row[time]) for row in rows], case["labels"].get("tz") or "UTC")
    connection.register("labels", pa.table(labels))
    known = bool(case.get("as_known"))
    sql = point_in_time_sql(joins, labels="labels", label_columns=names, time_column=time, shape=shape, as_known=known)
    return connection.sql(sql).to_arrow_table().to_pylist(), names


def _same(left, right):
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    return type(left) is type(right) and left == right


def _expected_value(value, found):
    if value in ("NaN", "Infinity", "-Infinity") and isinstance(found, float):
        return float(value.replace("Infinity", "inf"))
    return float(value) if isinstance(found, float) and isinstance(value, int) else value


@pytest.mark.parametrize("shape", JoinShape)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_reference_case(case, shape):
    if case.get("as_known") and shape is JoinShape.ASOF:
        with pytest.raises(ValueError, match="one inequality"):
            _run(case, shape)
        return
    found, names = _run(case, shape)
    assert len(found) == len(case["expected"])
    for row, label, expected in zip(found, case["labels"]["rows"], case["expected"], strict=True):
        assert [row[name] for name in names] == [label.get(name) for name in names]
        for view, answer in expected.items():
            assert row[f"{view}__status"] == answer["status"]
            event = row[f"{view}__event_ts"]
            assert (event and (event - EPOCH) // timedelta(microseconds=1)) == _us(answer["event_ts"])
            for feature, value in answer["values"].items():
                got = row[f"{view}__{feature}"]
                assert _same(got, _expected_value(value, got)), (view, feature)
                if answer["status"] == "PRESENT":
                    assert (answer["statuses"][feature] == "NULL_VALUE") == (got is None)


def test_as_known_is_never_asked_of_the_asof_form():
    assert shape_for(as_known=True) is JoinShape.RANGE
    assert shape_for(as_known=False) is JoinShape.ASOF


small = st.integers(0, 6)
maybe = st.one_of(st.none(), small)
feature_rows = st.lists(st.tuples(maybe, st.sampled_from(["", "a", None]), maybe, maybe, maybe), max_size=25)
label_rows = st.lists(st.tuples(maybe, st.sampled_from(["", "a", None]), maybe), max_size=15)


def _brute_force(rows, labels, ttl, *, as_known):
    answers = []
    for key1, key2, at in labels:
        seen = [
            (event, -1 if created is None else created, seq, value)
            for seq, (k1, k2, event, created, value) in enumerate(rows)
            if None not in (key1, key2, at, event)
            and (k1, k2) == (key1, key2)
            and event <= at
            and (not as_known or (created is not None and created <= at))
        ]
        if not seen:
            answers.append(("NOT_FOUND", None))
        elif ttl and max(seen)[0] < at - ttl:
            answers.append(("OUTSIDE_MAX_AGE", None))
        else:
            answers.append(("PRESENT", max(seen, key=lambda one: one[:3])[3]))
    return answers


def _relation(rows):
    keys1, keys2, events, created, values = ([row[i] for row in rows] for i in range(5))
    return pa.table(
        {
            "k1": pa.array(keys1, pa.int64()),
            "k2": pa.array(keys2, pa.string()),
            "event_ts": _times(events),
            "created_ts": _times(created),
            "seq": pa.array(range(len(rows)), pa.int64()),
            "x": pa.array(values, pa.int64()),
        }
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(feature_rows, label_rows, st.sampled_from([None, 0, 1, 3]), st.booleans())
def test_join_equals_brute_force(rows, labels, ttl, as_known):
    connection = _connect()
    connection.register("f", _relation(rows))
    table = {
        "_row": pa.array(range(len(labels)), pa.int64()),
        "k1": pa.array([row[0] for row in labels], pa.int64()),
        "k2": pa.array([row[1] for row in labels], pa.string()),
        "t": _times([row[2] for row in labels]),
    }
    connection.register("labels", pa.table(table))
    view = JoinView("v", "f", (("k1", "k1"), ("k2", "k2")), ("x",), ttl)
    wanted = _brute_force(rows, labels, ttl, as_known=as_known)
    for shape in JoinShape:
        if as_known and shape is JoinShape.ASOF:
            continue
        sql = point_in_time_sql(
            [view], labels="labels", label_columns=["k1"], time_column="t", shape=shape, as_known=as_known
        )
        found = [tuple(row.values()) for row in connection.sql(sql).to_arrow_table().to_pylist()]
        assert [(row[2], row[4]) for row in found] == wanted, shape


@settings(max_examples=25, deadline=None, derandomize=True)
@given(feature_rows)
def test_latest_rows_are_the_join_at_the_end_of_time(rows):
    connection = _connect()
    connection.register("f", _relation(rows))
    table = connection.sql(latest_rows_sql("f", ["k1", "k2"], ["x"])).to_arrow_table()
    found = [tuple(row.values()) for row in table.to_pylist()]
    keys = {(row[0], row[1]) for row in rows if None not in (row[0], row[1], row[2])}
    assert {(row[0], row[1]) for row in found} == keys
    assert len(found) == len(keys)
    for row in found:
        assert _brute_force(rows, [(row[0], row[1], 99)], None, as_known=False) == [("PRESENT", row[5])]


def test_times_of_labels_may_come_in_another_zone():
    zone = ZoneInfo("Europe/Berlin")
    connection = _connect()
    at = datetime(2026, 3, 29, 12, tzinfo=zone)
    connection.register("f", _relation([(1, "a", (at - EPOCH) // timedelta(microseconds=1), None, 7)]))
    labels = {"_row": [0], "k1": [1], "k2": ["a"], "t": pa.array([at], pa.timestamp("us", tz="Europe/Berlin"))}
    connection.register("labels", pa.table(labels))
    view = JoinView("v", "f", (("k1", "k1"), ("k2", "k2")), ("x",))
    sql = point_in_time_sql(
        [view], labels="labels", label_columns=[], time_column="t", shape=JoinShape.ASOF, as_known=False
    )
    assert connection.sql(sql).to_arrow_table()["v__x"].to_pylist() == [7]
