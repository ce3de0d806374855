"""The demo's own repository and the real churn table: ingested, joined, and the same online as offline."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import clave.demo
import numpy as np
import pyarrow.parquet as pq
import pytest
from clave.demo.telco import join_keys_of, load_market, to_csv
from clave.repository import load_repository

pytestmark = pytest.mark.integration
API = "/api/features/v1"


async def test_the_churn_repository_takes_the_real_table_and_serves_it_without_skew(feature_store):
    files = load_repository(Path(clave.demo.__file__).parent / "churn_repo")
    repository = files.features
    answer = await feature_store.put(f"{API}/repository", json=repository.model_dump(mode="json"))
    assert answer.status_code == 200, answer.text
    market = load_market(7)
    customers = [*market.past, *market.wave]
    now = datetime.now(UTC)
    reports = {}
    for view in repository.feature_views:
        at = now - timedelta(days=1 if view.label else 2)
        table = to_csv(view, join_keys_of(repository, view), customers, at)
        answer = await feature_store.post(
            f"{API}/views/{view.name}/ingest", content=table, headers={"content-type": "text/csv"}
        )
        assert answer.status_code == 200, answer.text
        reports[view.name] = answer.json()
    assert {name: report["accepted"] for name, report in reports.items()} == {
        "subscription": 7043,
        "billing": 7032,
        "household": 7043,
        "churned": 7043,
    }
    assert reports["billing"]["quarantined"] == 11
    spec = files.pipelines[0]
    request = {
        "name": "churn",
        "feature_service": spec.feature_service,
        "label_view": spec.label_view,
        "label": spec.label,
        "extra": spec.protected,
    }
    answer = await feature_store.post(f"{API}/training-sets", json=request)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["rows"] == 7043
    assert made["statuses"]["billing"] == {"NOT_FOUND": 11, "PRESENT": 7032}
    data = await feature_store.get(f"{API}/training-sets/{made['id']}/data")
    table = pq.read_table(io.BytesIO(data.content))
    assert sum(table[spec.label].to_pylist()) == 1869
    columns = [one["name"] for one in made["columns"] if one["role"] == "feature"]
    keys = table["customer_id"].to_pylist()
    body = {"feature_service": spec.feature_service, "entities": {"customer_id": keys}}
    online = (await feature_store.post(f"{API}/online/read", json=body)).json()
    assert online["columns"] == columns
    left = np.array([[np.nan if one is None else one for one in row] for row in online["values"]], dtype=np.float32)
    right = np.column_stack([table[name].to_numpy(zero_copy_only=False) for name in columns]).astype(np.float32)
    np.testing.assert_array_equal(left, right)
    assert not np.isnan(left).all(axis=0).any()
