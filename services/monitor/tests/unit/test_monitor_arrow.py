"""Columns pass to and from Parquet by their buffers, without pandas."""

import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from clave_monitor.runtime import arrow
from clave_monitor.services.prediction_log import parquet
from pyarrow.parquet import read_table, write_table

NAN = float("nan")


def row(n, **changes):
    known = {
        "prediction_id": f"pred_{n}",
        "row": n,
        "model": "m",
        "model_version": 1,
        "arm": "live",
        "tenant": "default",
        "principal": "app:ü",
        "protocol": "rest",
        "predicted_at": datetime(2026, 3, 2, 12, 0, n, tzinfo=UTC),
        "score": 0.25,
        "label": 1,
        "latency_ms": None,
        "error": None,
        "entities": {"customer": n},
        "features": np.array([n, NAN], dtype="<f4").tobytes(),
    }
    return known | changes


def test_the_log_reads_back_as_it_was_written():
    rows = [row(0), row(1, score=None, entities=None), row(2, error="boom", latency_ms=3.5)]
    table = read_table(pa.BufferReader(parquet(rows, ["a", "b"])))
    table.validate(full=True)
    found = table.to_pylist()
    assert [each["prediction_id"] for each in found] == ["pred_0", "pred_1", "pred_2"]
    assert [each["score"] for each in found] == [0.25, None, 0.25]
    assert [each["feature.a"] for each in found] == [0.0, 1.0, 2.0]
    assert [each["feature.b"] for each in found] == [None, None, None]
    assert [each["error"] for each in found] == [None, None, "boom"]
    assert found[1]["entities"] is None
    assert found[2]["predicted_at"] == rows[2]["predicted_at"]
    assert found[0]["principal"] == "app:ü"


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1.5, None, 3.0], pa.float32(), [1.5, NAN, 3.0]),
        ([True, False, None], pa.bool_(), [1.0, 0.0, NAN]),
        ([1, 2, None], pa.int64(), [1.0, 2.0, NAN]),
        ([], pa.float64(), []),
    ],
)
def test_numbers_of_any_kind_become_floats(tmp_path, values, kind, expected):
    write_table(pa.table({"x": pa.array(values, kind)}), tmp_path / "x.parquet")
    column = arrow.read_columns(str(tmp_path / "x.parquet"))["x"]
    np.testing.assert_array_equal(arrow.as_floats(column), expected)
    np.testing.assert_array_equal(arrow.as_floats(column[1:]), expected[1:])
    assert arrow.as_objects(column) == values


def test_text_is_no_number():
    with pytest.raises(ValueError, match="parse"):
        arrow.as_floats(pa.array(["a"]))


def test_neither_reading_nor_writing_imports_pandas(tmp_path):
    write_table(pa.table({"x": [1.0, 2.0], "sex": ["f", "m"]}), tmp_path / "x.parquet")
    program = (
        "import sys, datetime, numpy as np\n"
        "from clave_monitor.runtime import arrow\n"
        "from clave_monitor.services.prediction_log import parquet\n"
        f"columns = arrow.read_columns({str(tmp_path / 'x.parquet')!r})\n"
        "arrow.as_floats(columns['x']); arrow.as_objects(columns['sex'])\n"
        "row = dict.fromkeys(('prediction_id', 'model', 'arm', 'tenant', 'principal', 'protocol', 'error',"
        " 'entities', 'score', 'label', 'latency_ms'))\n"
        "row |= {'row': 0, 'model_version': 1, 'predicted_at': datetime.datetime.now(), 'features': b'0000'}\n"
        "parquet([row], ['a'])\n"
        "sys.exit('pandas' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
