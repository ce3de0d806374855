"""From a repository and a table to online values and a training set, through the service's own door."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.integration
API = "/api/features/v1"
REPOSITORY = {
    "entities": [{"name": "customer", "join_keys": {"customer_id": "int64"}}],
    "feature_views": [
        {
            "name": "billing",
            "entity": "customer",
            "timestamp_column": "as_of",
            "ttl_s": 86_400 * 30,
            "features": [
                {"name": "charges", "dtype": "float64"},
                {"name": "tenure", "dtype": "int64", "nullable": True},
                {"name": "contract", "dtype": "category", "levels": ["monthly", "yearly"]},
                {"name": "paperless", "dtype": "bool"},
                {"name": "per_month", "dtype": "float64", "expression": "charges / max(tenure, 1)"},
            ],
            "rules": [
                {"column": "charges", "kind": "range", "min": 0, "max": 1000},
                {"column": "tenure", "kind": "range", "min": 0, "max": 100},
                {"column": "contract", "kind": "set", "values": ["monthly", "yearly"]},
            ],
        },
        {
            "name": "person",
            "entity": "customer",
            "timestamp_column": "as_of",
            "features": [{"name": "female", "dtype": "bool", "protected": True}, {"name": "city", "dtype": "string"}],
        },
        {
            "name": "outcome",
            "entity": "customer",
            "timestamp_column": "as_of",
            "label": True,
            "features": [{"name": "churned", "dtype": "bool"}],
        },
    ],
    "feature_services": [
        {
            "name": "churn_v1",
            "features": ["billing:charges", "billing:contract", "billing:per_month", "billing:paperless"],
        }
    ],
}
CSV = """customer_id,as_of,charges,tenure,contract,paperless
1,2026-10-01T00:00:00Z,10.1,2,monthly,yes
2,2026-10-01T00:00:00Z,20.2,,yearly,no
3,2026-10-01T00:00:00Z,-5,3,monthly,no
4,2026-10-01T00:00:00Z,abc,3,weekly,no
,2026-10-01T00:00:00Z,1,1,monthly,no
1,2026-11-10T00:00:00Z,11.5,3,yearly,yes
7,2199-01-01T00:00:00Z,11.5,3,yearly,yes
"""
LABELS = [
    {"customer_id": 1, "as_of": "2026-10-05T00:00:00Z", "churned": False},
    {"customer_id": 1, "as_of": "2026-11-12T00:00:00Z", "churned": True},
    {"customer_id": 2, "as_of": "2026-11-12T00:00:00Z", "churned": True},
    {"customer_id": 9, "as_of": "2026-11-12T00:00:00Z", "churned": False},
]


async def apply(client):
    answer = await client.put(f"{API}/repository", json=REPOSITORY)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ingest(client, view, content, media_type="text/csv", **headers):
    headers = {"content-type": media_type, **headers}
    return await client.post(f"{API}/views/{view}/ingest", content=content, headers=headers)


async def filled(client):
    await apply(client)
    answer = await ingest(client, "billing", CSV)
    assert answer.status_code == 200, answer.text
    outcome = await client.post(f"{API}/views/outcome/ingest", json=LABELS)
    assert outcome.status_code == 200, outcome.text
    people = pa.table(
        {
            "customer_id": pa.array([1, 2], pa.int64()),
            "as_of": pa.array([0, 0], pa.timestamp("us", tz="UTC")),
            "female": [1, 0],
            "city": ["Köln", None],
        }
    )
    sink = io.BytesIO()
    pq.write_table(people, sink)
    third = await ingest(client, "person", sink.getvalue(), "application/vnd.apache.parquet")
    assert third.status_code == 200, third.text
    return answer.json()


async def test_bad_rows_are_quarantined_with_every_reason(feature_store):
    report = await filled(feature_store)
    assert (report["rows"], report["accepted"], report["quarantined"]) == (7, 3, 4)
    assert report["online_written"] == 2
    reasons = {(one["column"], one["rule"]): one["rows"] for one in report["reasons"]}
    assert reasons == {
        ("charges", "range"): 2,
        ("charges", "type"): 1,
        ("contract", "allowed"): 1,
        ("customer_id", "key"): 1,
        ("event_ts", "future"): 1,
    }
    page = (await feature_store.get(f"{API}/views/billing/quarantine", params={"page_size": 3})).json()
    assert [one["row"] for one in page["items"]] == [2, 3, 4]
    assert page["items"][1]["content"]["charges"] == "abc"
    rest = await feature_store.get(f"{API}/views/billing/quarantine", params={"page_token": page["next_page_token"]})
    assert [one["row"] for one in rest.json()["items"]] == [6]


async def test_online_reads_give_the_floats_of_a_model(feature_store):
    await filled(feature_store)
    body = {"feature_service": "churn_v1", "entities": {"customer_id": [1, 2, 3, None, "1"]}}
    answer = (await feature_store.post(f"{API}/online/read", json=body)).json()
    assert answer["columns"] == ["billing__charges", "billing__contract", "billing__per_month", "billing__paperless"]
    wanted = [np.float32(11.5), 1, np.float32(11.5 / 3), 1]
    assert [np.float32(one) for one in answer["values"][0]] == wanted
    assert answer["statuses"] == [["PRESENT"], ["OUTSIDE_MAX_AGE"], ["NOT_FOUND"], ["NOT_FOUND"], ["PRESENT"]]
    assert answer["event_times"][0] == ["2026-11-10T00:00:00Z"]
    assert answer["values"][1] == [None] * 4


async def test_a_training_set_is_right_in_time_and_immutable(feature_store):
    await filled(feature_store)
    request = {
        "name": "churn",
        "feature_service": "churn_v1",
        "label_view": "outcome",
        "label": "churned",
        "as_of": "2026-11-20T00:00:00Z",
        "extra": ["person:female", "person:city"],
    }
    late = {**request, "as_of": None}
    made = (await feature_store.post(f"{API}/training-sets", json=late)).json()
    assert made["rows"] == 4
    again = (await feature_store.post(f"{API}/training-sets", json={**request, "as_of": made["as_of"]})).json()
    assert again == made
    data = await feature_store.get(f"{API}/training-sets/{made['id']}/data")
    table = pq.read_table(io.BytesIO(data.content))
    assert [one["name"] for one in made["columns"]] == table.column_names
    assert table.schema.field("billing__contract").type == pa.float32()
    rows = table.to_pylist()
    assert [row["customer_id"] for row in rows] == [1, 1, 2, 9]
    assert [row["churned"] for row in rows] == [0, 1, 1, 0]
    assert [row["billing__contract"] for row in rows] == [0, 1, None, None]
    assert [row["person__city"] for row in rows] == ["Köln", "Köln", None, None]
    assert made["statuses"]["billing"] == {"NOT_FOUND": 1, "OUTSIDE_MAX_AGE": 1, "PRESENT": 2}
    online = {"feature_service": "churn_v1", "entities": {"customer_id": [1]}}
    values = (await feature_store.post(f"{API}/online/read", json=online)).json()["values"][0]
    features = [one["name"] for one in made["columns"] if one["role"] == "feature"]
    assert [np.float32(value) for value in values] == [np.float32(rows[1][name]) for name in features]
    known = {**request, "as_of": made["as_of"], "as_known": True}
    blind = (await feature_store.post(f"{API}/training-sets", json=known)).json()
    assert blind["statuses"]["billing"] == {"NOT_FOUND": 4}


async def test_feast_shape_keeps_order_and_true_statuses(feature_store):
    await filled(feature_store)
    body = (
        b'{"features": ["billing:contract", "billing:charges", "person:city"], "entities": {"customer_id": [1, 2, 5]}}'
    )
    answer = await feature_store.post("/get-online-features", content=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["metadata"]["feature_names"] == ["customer_id", "contract", "charges", "city"]
    assert found["results"][1]["values"] == ["yearly", None, None]
    assert found["results"][2]["statuses"] == ["PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND"]
    assert found["results"][3]["statuses"] == ["PRESENT", "NULL_VALUE", "NOT_FOUND"]
    frame = {"customer_id": [5], "event_timestamp": ["2026-11-15T00:00:00"], "female": [True], "city": ["x"]}
    assert (await feature_store.post("/push", json={"push_source_name": "person", "df": frame})).status_code == 200
    answer = await feature_store.post("/get-online-features", content=body)
    assert answer.json()["results"][3]["values"][2] == "x"
    for bad in ({"features": ["nope:x"]}, {"features": ["billing:x"]}, {"features": ["billing"]}, {}):
        refused = await feature_store.post("/get-online-features", json={**bad, "entities": {"customer_id": [1]}})
        assert 400 <= refused.status_code < 500
    assert (await feature_store.post("/get-online-features", content=b"{")).status_code == 422


async def test_a_retried_request_for_a_training_set_gives_the_same_one(feature_store):
    await filled(feature_store)
    request = {"name": "t", "feature_service": "churn_v1", "label_view": "outcome", "label": "churned"}
    made = [
        (await feature_store.post(f"{API}/training-sets", json=request, headers={"idempotency-key": "k"})).json()
        for _ in range(2)
    ]
    assert made[0] == made[1]
    listed = (await feature_store.get(f"{API}/training-sets", params={"name": "t", "page_size": 5})).json()
    assert listed["items"] == [made[0]]
    assert (await feature_store.get(f"{API}/training-sets/{made[0]['id']}")).json() == made[0]
    manifest = (await feature_store.get(f"{API}/training-sets/{made[0]['id']}/manifest")).json()["manifest"]
    assert set(manifest["files"]) == {"outcome", "billing"}


async def test_training_sets_are_found_by_the_entity_they_hold(feature_store):
    await filled(feature_store)
    request = {"feature_service": "churn_v1", "label_view": "outcome", "label": "churned"}
    made = [
        (await feature_store.post(f"{API}/training-sets", json={**request, "name": name, **span})).json()
        for name, span in (("all", {}), ("early", {"as_of": "2026-11-09T00:00:00Z"}))
    ]
    path = f"{API}/training-sets/search-by-entity"

    async def holding(keys, **params):
        answer = await feature_store.post(path, json={"keys": keys}, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    everywhere = {one["name"]: one["rows"] for one in made if one.get("rows")}
    found = {
        item["training_set"]["name"]: item["matching_rows"] for item in (await holding({"customer_id": 1}))["items"]
    }
    assert found["all"] == 2
    assert set(found) <= set(everywhere)
    assert (await holding({"customer_id": "1"}))["items"][-1]["matching_rows"] >= 1
    for nobody in ({"customer_id": 424242}, {"customer_id": "no number"}, {"household": 1}):
        assert (await holding(nobody))["items"] == []
    first = await holding({"customer_id": 1}, page_size=1)
    assert first["searched"] == 1
    second = await holding({"customer_id": 1}, page_size=1, page_token=first["next_page_token"])
    assert second["searched"] <= 1
    assert (await feature_store.post(path, json={"keys": {}})).status_code == 422


async def test_a_corrected_outcome_replaces_the_earlier_one(feature_store):
    await filled(feature_store)
    corrected = [{**LABELS[0], "churned": True}]
    await feature_store.post(f"{API}/views/outcome/ingest", json={"rows": corrected})
    request = {"name": "t", "feature_service": "churn_v1", "label_view": "outcome", "label": "churned"}
    made = (await feature_store.post(f"{API}/training-sets", json=request)).json()
    data = await feature_store.get(f"{API}/training-sets/{made['id']}/data")
    assert pq.read_table(io.BytesIO(data.content))["churned"].to_pylist() == [1, 1, 1, 0]
    none = {**request, "label_after": "2027-01-01T00:00:00Z"}
    answer = await feature_store.post(f"{API}/training-sets", json=none)
    assert (answer.status_code, answer.json()["code"]) == (422, "no_labels")


async def test_definitions_can_be_read_back(feature_store):
    await apply(feature_store)
    service = (await feature_store.get(f"{API}/feature-services/churn_v1")).json()
    assert service["entity_keys"] == {"customer_id": "int64"}
    assert service["columns"][1] == {
        "name": "billing__contract",
        "view": "billing",
        "dtype": "category",
        "levels": ["monthly", "yearly"],
    }
    names = [one["name"] for one in (await feature_store.get(f"{API}/views")).json()["items"]]
    assert names == ["billing", "outcome", "person"]
    again = await feature_store.put(f"{API}/repository", json=(await feature_store.get(f"{API}/repository")).json())
    assert again.status_code == 422
    assert (await feature_store.get(f"{API}/entities/customer")).json()["version"] == 1
    assert (await feature_store.get(f"{API}/entities/nope")).status_code == 404


async def test_a_lost_data_folder_is_named_and_comes_back(feature_store):
    await apply(feature_store)
    scratch = feature_store.parts.scratch
    scratch.rmdir()
    scratch.write_text("in the way")
    answer = await ingest(feature_store, "billing", CSV)
    assert (answer.status_code, answer.json()["code"]) == (503, "scratch_unwritable")
    scratch.unlink()
    scratch.mkdir()
    assert (await ingest(feature_store, "billing", CSV)).status_code == 200
