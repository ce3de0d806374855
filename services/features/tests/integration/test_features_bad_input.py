"""What is wrong with a table is named in one problem document, and nothing is half-written."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.integration
API = "/api/features/v1"
REPOSITORY = {
    "entities": [{"name": "shop", "join_keys": {"shop_id": "string"}}],
    "feature_views": [
        {
            "name": "sales",
            "entity": "shop",
            "missing_share_max": 0.5,
            "features": [{"name": "amount", "dtype": "float64"}],
        }
    ],
    "feature_services": [{"name": "s", "features": ["sales:amount"]}],
}
PARQUET = "application/vnd.apache.parquet"
GOOD = "shop_id,event_ts,amount\na,2026-01-01T00:00:00Z,1.5\n"


@pytest.fixture
async def store(feature_store):
    answer = await feature_store.put(f"{API}/repository", json=REPOSITORY)
    assert answer.status_code == 200, answer.text
    return feature_store


async def send(store, content, media_type="text/csv", **headers):
    return await store.post(
        f"{API}/views/sales/ingest", content=content, headers={"content-type": media_type, **headers}
    )


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "media_type", "code", "told"),
    [
        (b"", "text/csv", "table_empty", "empty"),
        (b"shop_id,event_ts,amount\n", "text/csv", "table_empty", "no rows"),
        (b"[]", "application/json", "table_empty", "no rows"),
        (b'{"shop_id": ', "application/json", "table_malformed", "JSON"),
        (b"[1, 2]", "application/json", "table_malformed", "not an object"),
        (b"PAR1 and then nothing of it", PARQUET, "table_malformed", "PARQUET"),
        (b"not parquet", PARQUET, "table_malformed", "not a Parquet file"),
        (b"shop_id,event_ts,amount\na,2026-01-01,1,2,3\nb,2026-01-01,1\n", "text/csv", "table_malformed", "CSV"),
        (b"shop_id,event_ts,amount\n\xff\xfe\x00,2026-01-01,1\n", "text/csv", "table_malformed", "CSV"),
        (b"shop_id,event_ts,amount,color\na,2026-01-01,1,red\n", "text/csv", "columns_unknown", "'color'"),
        (b"shop_id,amount\na,1\n", "text/csv", "columns_missing", "'event_ts'"),
        (b'[{"shop_id": "a", "event_ts": "2026-01-01"}]', "application/json", "columns_missing", "'amount'"),
    ],
)
async def test_a_bad_table_is_refused_by_name(store, content, media_type, code, told):
    answer = await send(store, content, media_type)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["code"] == code
    assert told in problem["detail"]
    assert str(store.parts.scratch) not in answer.text
    assert (await store.get(f"{API}/views/sales/batches")).json()["items"] == []
    assert list(store.parts.scratch.iterdir()) == []


async def test_too_many_missing_values_refuse_the_batch_and_a_better_one_is_taken(store):
    answer = await send(store, "shop_id,event_ts,amount\na,2026-01-01,\nb,2026-01-01,\nc,2026-01-01,1\n")
    assert answer.status_code == 409
    assert answer.json()["code"] == "batch_refused"
    assert "66.7%" in answer.json()["detail"]
    assert (await send(store, GOOD)).json()["accepted"] == 1


async def test_a_table_over_the_limit_is_refused(store):
    answer = await send(store, GOOD + "a" * 2_000_001)
    assert answer.status_code == 413
    assert list(store.parts.scratch.iterdir()) == []


async def test_unknown_views_services_and_keys_are_client_faults(store):
    missing = await store.post(f"{API}/views/nope/ingest", content=GOOD)
    assert (missing.status_code, missing.json()["code"]) == (404, "view_not_found")
    for entities, status in (
        ({"shop_id": [1]}, 422),
        ({}, 422),
        ({"shop_id": ["a"], "x": [1]}, 422),
        ({"shop_id": []}, 422),
    ):
        answer = await store.post(f"{API}/online/read", json={"feature_service": "s", "entities": entities})
        assert answer.status_code == status, answer.text
    answer = await store.post(f"{API}/online/read", json={"feature_service": "zzz", "entities": {"shop_id": ["a"]}})
    assert answer.status_code == 404
    request = {"name": "t", "feature_service": "s", "label_view": "sales", "label": "amount"}
    answer = await store.post(f"{API}/training-sets", json=request)
    assert (answer.status_code, answer.json()["code"]) == (422, "definition_invalid")
    assert (await store.get(f"{API}/training-sets/ts_x")).status_code == 404


async def test_a_retry_changes_nothing_and_a_reused_key_is_refused(store):
    first = (await send(store, GOOD, **{"idempotency-key": "k1"})).json()
    again = (await send(store, GOOD, **{"idempotency-key": "k1"})).json()
    assert again["duplicate"] is True
    assert again["batch_id"] == first["batch_id"]
    assert (await send(store, GOOD)).json()["duplicate"] is True
    other = await send(store, GOOD.replace("1.5", "2.5"), **{"idempotency-key": "k1"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert len((await store.get(f"{API}/views/sales/batches")).json()["items"]) == 1


async def test_an_unreadable_definition_lists_every_problem_and_changes_nothing(store):
    wrong = {
        "entities": [{"name": "a__b", "join_keys": {}}],
        "feature_views": [
            {
                "name": "v",
                "entity": "nope",
                "features": [{"name": "x", "dtype": "float64"}, {"name": "x", "dtype": "category"}],
                "rules": [{"column": "y", "kind": "range", "min": 1}],
            },
            {
                "name": "w",
                "entity": "shop",
                "features": [
                    {"name": "p", "dtype": "float64", "expression": "q + 1"},
                    {"name": "q", "dtype": "float64", "expression": "p + 1"},
                    {"name": "s", "dtype": "float64"},
                ],
            },
        ],
        "feature_services": [{"name": "m", "features": ["v:z", "sales"]}],
    }
    answer = await store.put(f"{API}/repository", json=wrong)
    assert answer.status_code == 422
    assert "unknown column 'y'" in answer.json()["detail"]
    del wrong["feature_views"][0]["rules"]
    wrong["feature_services"][0]["features"].pop()
    detail = (await store.put(f"{API}/repository", json=wrong)).json()["detail"]
    for told in (
        "'a__b' is no name",
        "no entity 'nope'",
        "'x' is defined twice",
        "needs its levels",
        "p -> q -> p",
        "'v:z'",
    ):
        assert told in detail
    assert len((await store.get(f"{API}/views")).json()["items"]) == 1


async def test_parquet_types_are_judged_not_coerced(store):
    times = pa.array([0, 0, 0], pa.timestamp("us"))
    content = parquet(shop_id=["a", "b", "c"], event_ts=times, amount=["1.5", "x", None])
    report = (await send(store, content, PARQUET)).json()
    assert (report["accepted"], report["quarantined"]) == (2, 1)


async def test_an_unwritable_disk_is_a_503_that_names_the_remedy(store, tmp_path, monkeypatch):
    blobs = tmp_path / "blobs"
    blobs.rename(tmp_path / "gone") if blobs.exists() else None
    blobs.write_text("in the way")
    answer = await send(store, GOOD)
    assert answer.status_code == 503
    assert "writable" in answer.json()["detail"]
    blobs.unlink()
    assert (await send(store, GOOD)).json()["duplicate"] is False
