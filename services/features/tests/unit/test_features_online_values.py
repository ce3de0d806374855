"""Packed online rows come back as they went in, and their order bytes order them as the join does."""

import math
import struct

from clave_features.domain.dtypes import Dtype
from clave_features.domain.online_values import ORDER_BYTES, OnlineRow, OnlineSchema, entity_key
from hypothesis import given, settings
from hypothesis import strategies as st

int64 = st.integers(-(2**63), 2**63 - 1)
micros = st.integers(-(2**62), 2**62)
VALUES = {
    Dtype.FLOAT64: st.floats(),
    Dtype.FLOAT32: st.floats(width=32),
    Dtype.INT64: int64,
    Dtype.TIMESTAMP: int64,
    Dtype.BOOL: st.booleans(),
    Dtype.CATEGORY: st.integers(0, 65_535),
    Dtype.STRING: st.text(max_size=20),
}


@st.composite
def rows(draw):
    dtypes = draw(st.lists(st.sampled_from(list(Dtype)), min_size=1, max_size=20))
    schema = OnlineSchema(tuple((f"f{n}", dtype, ()) for n, dtype in enumerate(dtypes)))
    values = tuple(draw(st.one_of(st.none(), VALUES[dtype])) for dtype in dtypes)
    created = draw(st.one_of(st.none(), micros))
    return schema, OnlineRow(draw(micros), created, draw(st.integers(0, 2**63)), values)


def _same(left, right):
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("d", left) == struct.pack("d", right) or (math.isnan(left) and math.isnan(right))
    return type(left) is type(right) and left == right


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rows())
def test_a_row_comes_back_as_it_went_in(case):
    schema, row = case
    back = schema.decode(schema.encode(row))
    assert back is not None
    assert (back.event_ts_us, back.created_ts_us, back.seq) == (row.event_ts_us, row.created_ts_us, row.seq)
    assert all(_same(left, right) for left, right in zip(back.values, row.values, strict=True))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(micros, st.one_of(st.none(), micros), st.integers(0, 9)), min_size=2, max_size=2))
def test_order_bytes_order_rows_as_the_join_does(pair):
    schema = OnlineSchema((("x", Dtype.INT64, ()),))
    first, second = (schema.encode(OnlineRow(*one, (1,)))[ORDER_BYTES] for one in pair)
    ranks = [(event, created is not None, created or 0, seq) for event, created, seq in pair]
    assert (first < second) == (ranks[0] < ranks[1])
    assert (first == second) == (ranks[0] == ranks[1])


def test_a_blob_of_another_schema_counts_as_absent():
    one = OnlineSchema((("x", Dtype.CATEGORY, ("a", "b")),))
    other = OnlineSchema((("x", Dtype.CATEGORY, ("b", "a")),))
    blob = one.encode(OnlineRow(0, 0, 0, (1,)))
    assert other.decode(blob) is None
    assert one.decode(blob[:10]) is None
    assert one.decode(b"\x02" + blob[1:]) is None


def test_entity_keys_never_collide():
    keys = [
        (1,),
        ("1",),
        ("i1",),
        (1, 2),
        (12,),
        ("1,2",),
        ("a", "b"),
        ("a,s1:b",),
        ("", ""),
        ("",),
        ("\u00e9",),
        ("e\u0301",),
    ]
    assert len({entity_key(key) for key in keys}) == len(keys)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows())
def test_columns_say_the_same_as_rows(case):
    schema, row = case
    columns = schema.decode_columns([schema.encode(row), None, b"", b"\x02" + schema.encode(row)[1:]])
    assert columns.valid.tolist() == [True, False, False, False]
    assert columns.event_ts_us[0] == row.event_ts_us
    for at, ((_, dtype, _), value) in enumerate(zip(schema.fields, row.values, strict=True)):
        number = columns.numbers(at)[0]
        if value is None:
            assert math.isnan(number)
        elif dtype is not Dtype.STRING:
            assert _same(float(number), float(value))
