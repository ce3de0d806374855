"""What goes onto the prediction stream comes out as records, number for number, in whichever form it went."""

import numpy as np
import orjson
import pytest
from clave_contracts.events import PredictionRecord
from clave_contracts.prediction_batches import (
    MalformedBatch,
    batch,
    documents,
    kind_part,
    record_part,
    table_part,
)
from clave_inference.services.prediction_records import Piece, RunKind, batches, recovered
from hypothesis import given
from hypothesis import strategies as st

SHARED = {
    "endpoint": "churn",
    "model": "churn",
    "model_version": 3,
    "arm": "live",
    "tenant": "default",
    "protocol": "rest",
    "columns": ["a", "b"],
}
NUMBERS = st.floats(width=32, allow_infinity=False)


def table(rows: np.ndarray, scores: np.ndarray, labels: np.ndarray | None = None, traces: list | None = None) -> bytes:
    count = len(rows)
    return table_part(
        ids=[f"prd_{number}" for number in range(count)],
        principals=["app:web"] * count,
        traces=traces,
        began=[10.25] * count,
        ended=10.251234,
        offset=1_790_000_000.0,
        rows=rows.tobytes(),
        scores=scores.tobytes(),
        labels=b"" if labels is None else labels.tobytes(),
    )


def records(body: bytes) -> list[PredictionRecord]:
    return [PredictionRecord.model_validate(document) for document in documents(body)]


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_numbers_come_out_in_their_shortest_form_and_missing_ones_as_none(numbers: list[tuple[float, ...]]) -> None:
    array = np.array(numbers, np.float32)
    kind = kind_part(SHARED, dtype="<f4", score_dtype="<f4", label_dtype="")
    found = records(batch((kind, table(array[:, :2], array[:, 2]))))
    for record, row in zip(found, array, strict=True):
        for value, sent in zip(record.values[0] + record.score, row, strict=True):
            assert value is None if np.isnan(sent) else np.float32(value) == sent
    printed = orjson.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))
    assert [record.values[0] + record.score for record in found] == printed


def test_a_table_says_everything_that_a_record_says() -> None:
    kind = kind_part(SHARED, dtype="<f8", score_dtype="<f8", label_dtype="<i8")
    rows, scores, labels = np.array([[0.1, 2.0]]), np.array([0.7]), np.array([1])
    (record,) = records(batch((kind, table(rows, scores, labels, ["4bf9"]))))
    assert record.model_dump(mode="json") == {
        **SHARED,
        "id": "prd_0",
        "at": "2026-09-21T14:13:30.250000Z",
        "principal": "app:web",
        "values": [[0.1, 2.0]],
        "entities": None,
        "score": [0.7],
        "label": [1],
        "latency_ms": 1.234,
        "error": None,
        "trace_id": "4bf9",
    }


def test_a_model_without_score_and_label_has_neither() -> None:
    kind = kind_part(SHARED, dtype="<f4", score_dtype="", label_dtype="")
    (record,) = records(batch((kind, table(np.ones((1, 2), np.float32), np.empty(0)))))
    assert (record.score, record.label) == ([], None)


def test_the_json_form_is_read_as_well() -> None:
    assert documents(b'[{"id":"a"}]') == [{"id": "a"}]
    assert documents(batch((record_part(b'{"id":"a"}'),))) == [{"id": "a"}]


KIND_PART = kind_part(SHARED, dtype="<f4", score_dtype="<f4", label_dtype="")
TABLE = table(np.ones((2, 2), np.float32), np.ones(2, np.float32))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"{}",
        b"CPB1R",
        batch((KIND_PART, TABLE))[:-1],
        batch((KIND_PART, TABLE[:5] + b"\xff\xff\xff\xff" + TABLE[9:])),
        batch((TABLE,)),
        batch((b"X\0\0\0\0",)),
        batch((kind_part(SHARED, dtype="<f8", score_dtype="<f4", label_dtype="")[:-1],)),
        batch((kind_part(SHARED, dtype="wrong", score_dtype="<f4", label_dtype=""), TABLE)),
    ],
)
def test_what_is_no_batch_is_named_so(body: bytes) -> None:
    with pytest.raises(MalformedBatch):
        documents(body)
    assert recovered(body[4:] or b"?") is None


def test_every_body_makes_sense_by_itself() -> None:
    first = RunKind("churn", "3", "live", "rest", KIND_PART, "<f4")
    other = kind_part({**SHARED, "arm": "canary"}, dtype="<f4", score_dtype="<f4", label_dtype="")
    second = RunKind("churn", "3", "canary", "rest", other, "<f4")
    alone = Piece(record_part(b'{"arm":"shadow"}'), 1)
    pieces = [Piece(TABLE, 2, first), Piece(TABLE, 2, first), Piece(TABLE, 2, second), alone, Piece(TABLE, 2, first)]
    bodies = list(batches(pieces, 4))
    assert [count for _, count in bodies] == [4, 3, 2]
    arms = [document["arm"] for body, _ in bodies for document in documents(body)]
    assert arms == ["live"] * 4 + ["canary"] * 2 + ["shadow"] + ["live"] * 2
    assert [piece and piece.records for piece in map(recovered, map(Piece.journal_form, pieces))] == [2, 2, 2, 1, 2]
