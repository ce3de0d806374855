"""MLflow's wire: what its clients send, and exactly what they need back."""

import asyncio
from typing import Any

import pytest
from registry_bench import Bench, onnx_model

pytestmark = pytest.mark.integration
M = "/api/2.0/mlflow"
F = "/api/2.0/mlflow-artifacts/artifacts"


async def post(bench: Bench, path: str, body: Any = None, *, who: str = "user:eve", expect: int = 200) -> Any:
    return (await bench.call(who, "POST", f"{M}/{path}", body or {}, expect=expect)).json()


async def get(bench: Bench, path: str, *, who: str = "user:eve", expect: int = 200, **params: Any) -> Any:
    return (await bench.call(who, "GET", f"{M}/{path}", params=params, expect=expect)).json()


async def new_run(bench: Bench, **fields: Any) -> dict[str, Any]:
    run: dict[str, Any] = (await post(bench, "runs/create", {"experiment_id": "0", **fields}))["run"]
    return run


async def logged_model(bench: Bench, files: dict[str, bytes]) -> str:
    model = (await post(bench, "logged-models", {"experiment_id": "0", "name": "model"}))["model"]["info"]
    root = model["artifact_uri"].removeprefix("mlflow-artifacts:/")
    for name, data in files.items():
        await bench.call("user:eve", "PUT", f"{F}/{root}/{name}", content=data, expect=200)
    model_id: str = model["model_id"]
    await bench.call("user:eve", "PATCH", f"{M}/logged-models/{model_id}", {"status": "LOGGED_MODEL_READY"}, expect=200)
    return model_id


async def test_the_default_experiment_is_there_and_ids_are_texts(bench: Bench) -> None:
    assert (await get(bench, "experiments/get", experiment_id="0"))["experiment"]["name"] == "Default"
    made = await post(bench, "experiments/create", {"name": "churn"})
    assert made == {"experiment_id": "1"}
    again = await post(bench, "experiments/create", {"name": "churn"}, expect=400)
    assert again["error_code"] == "RESOURCE_ALREADY_EXISTS"
    missing = await get(bench, "experiments/get-by-name", experiment_name="x", expect=404)
    assert missing["error_code"] == "RESOURCE_DOES_NOT_EXIST"


async def test_errors_speak_mlflow_also_without_credentials_and_for_unknown_routes(bench: Bench) -> None:
    anonymous = await bench.client.get(f"{M}/experiments/get?experiment_id=0")
    assert (anonymous.status_code, anonymous.json()["error_code"]) == (401, "UNAUTHENTICATED")
    refused = await post(bench, "registered-models/create", {"name": "m"}, who="user:vic", expect=403)
    assert refused["error_code"] == "PERMISSION_DENIED"
    unknown = await get(bench, "traces/none", expect=404)
    assert unknown["error_code"] == "ENDPOINT_NOT_FOUND"
    absent = await post(bench, "registered-models/create", {}, expect=400)
    assert absent["message"].startswith("Missing value for required parameter 'name'")
    own = await bench.client.get("/api/registry/v1/models")
    assert own.headers["content-type"] == "application/problem+json"


async def test_metrics_keep_history_latest_and_odd_values(bench: Bench) -> None:
    run_id = (await new_run(bench, run_name="r"))["info"]["run_id"]
    for step, value in ((2, 0.9), (1, 0.8), (2, 0.9)):
        body = {"run_id": run_id, "key": "auc", "value": value, "timestamp": 10 + step, "step": str(step)}
        await post(bench, "runs/log-metric", body)
    await post(bench, "runs/log-metric", {"run_id": run_id, "key": "bad", "value": "NaN", "timestamp": 1})
    data = (await get(bench, "runs/get", run_id=run_id))["run"]["data"]
    assert {m["key"]: m["value"] for m in data["metrics"]} == {"auc": 0.9, "bad": "NaN"}
    history = await get(bench, "metrics/get-history", run_id=run_id, metric_key="auc", max_results=1)
    assert [m["value"] for m in history["metrics"]] == [0.8]
    rest = await get(
        bench,
        "metrics/get-history",
        run_id=run_id,
        metric_key="auc",
        max_results=1,
        page_token=history["next_page_token"],
    )
    assert ([m["value"] for m in rest["metrics"]], "next_page_token" in rest) == ([0.9], False)


async def test_a_batch_is_all_or_nothing(bench: Bench) -> None:
    run_id = (await new_run(bench))["info"]["run_id"]
    await post(bench, "runs/log-batch", {"run_id": run_id, "params": [{"key": "depth", "value": "3"}]})
    batch = {
        "run_id": run_id,
        "metrics": [{"key": "auc", "value": 0.5, "timestamp": 1}],
        "params": [{"key": "depth", "value": "4"}],
    }
    assert (await post(bench, "runs/log-batch", batch, expect=400))["error_code"] == "INVALID_PARAMETER_VALUE"
    data = (await get(bench, "runs/get", run_id=run_id))["run"]["data"]
    assert (data["metrics"], data["params"]) == ([], [{"key": "depth", "value": "3"}])
    many = {"run_id": run_id, "metrics": [{"key": f"m{i}", "value": i, "timestamp": 1} for i in range(1001)]}
    await post(bench, "runs/log-batch", many, expect=400)
    await post(bench, "runs/log-batch", {**many, "metrics": many["metrics"][:1000]})
    assert len((await get(bench, "runs/get", run_id=run_id))["run"]["data"]["metrics"]) == 1000


async def test_runs_are_searched_ordered_and_paged_with_nan_and_missing_last(bench: Bench) -> None:
    for name, value in (("a", 0.1), ("b", 0.3), ("c", "NaN"), ("d", None), ("e", 0.2)):
        run_id = (await new_run(bench, run_name=name, start_time=1))["info"]["run_id"]
        if value is not None:
            await post(bench, "runs/log-metric", {"run_id": run_id, "key": "auc", "value": value, "timestamp": 1})
    asked: dict[str, Any] = {"experiment_ids": ["0"], "order_by": ["metrics.auc DESC"], "max_results": 2}
    names, token = [], ""
    while True:
        page = await post(bench, "runs/search", {**asked, **({"page_token": token} if token else {})})
        names += [run["info"]["run_name"] for run in page.get("runs", [])]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert names == ["b", "e", "a", "c", "d"]
    other = await post(bench, "runs/search", {"experiment_ids": ["0"], "filter": "metrics.auc != 0.1"})
    assert {run["info"]["run_name"] for run in other["runs"]} == {"b", "c", "e"}
    await post(bench, "runs/search", {"experiment_ids": ["0"], "max_results": 0}, expect=400)


@pytest.mark.parametrize(
    "path",
    ["0/%2e%2e/x", "0/%252e%252e/x", "/etc/passwd", "0/a%00b", "0/a%23b", "versions/mdl_1/1/x", "0/a%5cb"],
)
async def test_artifact_paths_that_leave_the_store_are_refused(bench: Bench, path: str) -> None:
    url = f"http://registry{F}/{path}"
    answer = await bench.client.put(url, content=b"x", headers={"authorization": "Bearer user:eve"})
    assert answer.status_code in {400, 404}, answer.text


async def test_artifacts_are_listed_read_in_ranges_and_deleted_as_folders(bench: Bench) -> None:
    for name in ("top.txt", "dir/ü n.bin", "dir/deep/x", "empty"):
        data = b"" if name == "empty" else b"0123456789"
        await bench.call("user:eve", "PUT", f"{F}/0/r/artifacts/{name}", content=data, expect=200)
    listed = (await bench.call("user:eve", "GET", F, params={"path": "0/r/artifacts"}, expect=200)).json()["files"]
    assert listed == [
        {"path": "dir", "is_dir": True},
        {"path": "empty", "is_dir": False, "file_size": 0},
        {"path": "top.txt", "is_dir": False, "file_size": 10},
    ]
    part = await bench.call(
        "user:eve", "GET", f"{F}/0/r/artifacts/dir/ü n.bin", headers={"range": "bytes=2-4"}, expect=206
    )
    assert part.content == b"234"
    await bench.call("user:eve", "DELETE", f"{F}/0/r/artifacts/dir", {}, expect=200)
    await bench.call("user:eve", "GET", f"{F}/0/r/artifacts/dir/deep/x", expect=404)
    assert (await bench.call("user:eve", "GET", F, params={"path": "0/none"}, expect=200)).json() == {}


async def test_a_registered_version_is_served_from_its_pinned_files_and_its_folder_is_closed(bench: Bench) -> None:
    model_id = await logged_model(bench, {"MLmodel": b"flavors: {}", "model.onnx": onnx_model()})
    await post(bench, "registered-models/create", {"name": "churn"})
    made = await post(bench, "model-versions/create", {"name": "churn", "source": f"models:/{model_id}"})
    version = made["model_version"]
    assert (version["version"], version["status"], version["model_id"]) == ("1", "READY", model_id)
    uri = (await get(bench, "model-versions/get-download-uri", name="churn", version="1"))["artifact_uri"]
    folder = uri.removeprefix("mlflow-artifacts:/")
    listed = (await bench.call("user:eve", "GET", F, params={"path": folder}, expect=200)).json()["files"]
    assert [entry["path"] for entry in listed] == ["MLmodel", "model.onnx"]
    assert (await bench.call("user:eve", "GET", f"{F}/{folder}/MLmodel", expect=200)).content == b"flavors: {}"
    root = f"0/models/{model_id}/artifacts"
    changed = await bench.call("user:eve", "PUT", f"{F}/{root}/MLmodel", content=b"other")
    assert (changed.status_code, changed.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
    await bench.call("user:eve", "PUT", f"{F}/{root}/MLmodel", content=b"flavors: {}", expect=200)
    assert (await bench.call("user:eve", "DELETE", f"{F}/{root}", {})).status_code == 409
    own = (await bench.call("user:eve", "GET", "/api/registry/v1/models/churn/versions/1", expect=200)).json()
    assert own["signature"]["inputs"][0]["shape"] == [-1, 3]
    assert own["signature"]["inputs"][0]["name"] == "input"


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("model.onnx", onnx_model(domain="com.evil")),
        ("model.ubj", b"{L no booster"),
        ("data/weights.safetensors", b"\xff" * 16),
    ],
)
async def test_models_that_are_not_what_they_claim_are_kept_and_cannot_be_deployed(
    bench: Bench, path: str, data: bytes
) -> None:
    files = {"MLmodel": b"flavors: {}", "model.onnx": onnx_model(), path: data}
    model_id = await logged_model(bench, files)
    await post(bench, "registered-models/create", {"name": "churn"})
    await post(bench, "model-versions/create", {"name": "churn", "source": f"models:/{model_id}"})
    own = (await bench.call("user:eve", "GET", "/api/registry/v1/models/churn/versions/1", expect=200)).json()
    assert own["signature"]["inputs"] == own["signature"]["outputs"] == []
    assert f"'{path}' cannot be registered" in own["status_reason"]


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "C:/x",
        "mlflow-artifacts:/0/../1",
        "mlflow-artifacts:/0/other/artifacts/m",
        "mlflow-artifacts:/%2e%2e/x",
        "models:/m-00000000000000000000000000000000",
        "runs:/abc/../x",
        "s3://bucket/x#frag",
        "http://example.invalid/api/2.0/mlflow-artifacts/artifacts/0/x",
    ],
)
async def test_sources_that_point_elsewhere_are_refused_and_never_opened(bench: Bench, source: str) -> None:
    await post(bench, "registered-models/create", {"name": "churn"})
    answer = await bench.call("user:eve", "POST", f"{M}/model-versions/create", {"name": "churn", "source": source})
    assert answer.status_code in {400, 404}, answer.text
    assert "model_versions" in await get(bench, "model-versions/search", filter="name = 'churn'")


async def test_stages_aliases_and_latest_versions(bench: Bench) -> None:
    await post(bench, "registered-models/create", {"name": "churn"})
    for _ in range(3):
        await post(bench, "model-versions/create", {"name": "churn", "source": "s3://bucket/model"})
    for version in ("1", "2"):
        body = {"name": "churn", "version": version, "stage": "production", "archive_existing_versions": True}
        moved = await post(bench, "model-versions/transition-stage", body)
        assert moved["model_version"]["current_stage"] == "Production"
    latest = (await post(bench, "registered-models/get-latest-versions", {"name": "churn"}))["model_versions"]
    assert {(v["version"], v["current_stage"]) for v in latest} == {
        ("1", "Archived"),
        ("2", "Production"),
        ("3", "None"),
    }
    wrong = {"name": "churn", "version": "1", "stage": "Archived", "archive_existing_versions": True}
    await post(bench, "model-versions/transition-stage", wrong, expect=400)
    await post(bench, "registered-models/alias", {"name": "churn", "alias": "champion", "version": "2"})
    assert (await get(bench, "registered-models/alias", name="churn", alias="latest"))["model_version"][
        "version"
    ] == "3"
    gone = await get(bench, "registered-models/alias", name="churn", alias="none", expect=400)
    assert gone["error_code"] == "INVALID_PARAMETER_VALUE"
    await bench.call("user:eve", "DELETE", f"{M}/model-versions/delete", {"name": "churn", "version": "2"}, expect=200)
    await get(bench, "registered-models/alias", name="churn", alias="champion", expect=400)
    await get(bench, "model-versions/get", name="churn", version="2", expect=404)
    made = await post(bench, "model-versions/create", {"name": "churn", "source": "s3://bucket/model"})
    assert made["model_version"]["version"] == "4"


async def test_forty_callers_race_for_names_numbers_and_an_alias_without_a_wrong_answer(bench: Bench) -> None:
    async def create_model() -> int:
        return (await bench.call("user:eve", "POST", f"{M}/registered-models/create", {"name": "raced"})).status_code

    statuses = await asyncio.gather(*(create_model() for _ in range(20)))
    assert sorted(statuses) == [200] + [400] * 19
    source = {"name": "raced", "source": "s3://bucket/model"}
    made = await asyncio.gather(*(post(bench, "model-versions/create", source) for _ in range(40)))
    assert sorted(int(answer["model_version"]["version"]) for answer in made) == list(range(1, 41))
    moves = [{"name": "raced", "alias": "champion", "version": str(number)} for number in range(1, 41)]
    await asyncio.gather(*(post(bench, "registered-models/alias", move) for move in moves))
    history = await bench.rows("select count(*) as n from registry.alias_history")
    assert history[0]["n"] == 40


async def test_models_are_searched_with_the_clients_hidden_prompt_condition(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        await post(bench, "registered-models/create", {"name": name, "tags": [{"key": "team", "value": f"t{name}"}]})
    hidden = "tag.`mlflow.prompt.is_prompt` != 'true'"
    first = await get(bench, "registered-models/search", filter=hidden, max_results=2, order_by="name DESC")
    assert [m["name"] for m in first["registered_models"]] == ["c", "b"]
    rest = await get(
        bench,
        "registered-models/search",
        filter=hidden,
        max_results=2,
        order_by="name DESC",
        page_token=first["next_page_token"],
    )
    assert [m["name"] for m in rest["registered_models"]] == ["a"]
    found = await get(bench, "registered-models/search", filter=f"tags.team ILIKE 'TB' AND {hidden}")
    assert [m["name"] for m in found["registered_models"]] == ["b"]
    bad = await get(bench, "registered-models/search", filter="name = 'a' OR name = 'b'", expect=400)
    assert "position 11" in bad["message"]


async def test_searches_that_would_wear_the_database_out_are_refused_or_answered(bench: Bench) -> None:
    run_id = (await new_run(bench, run_name="a" * 200))["info"]["run_id"]
    await post(bench, "runs/set-tag", {"run_id": run_id, "key": "k", "value": "a" * 8000})
    answered = [
        "tags.k LIKE '" + "%a" * 20 + "b'",
        "tags.k ILIKE '%" + "a%" * 19 + "b'",
        " AND ".join(f"metrics.m{n} > 1" for n in range(100)),
        " AND ".join(f"tags.k{n} LIKE '%x%'" for n in range(100)),
        "start_time > 1e300 AND start_time < -1e300 AND end_time = 1.5",
        "tags.k = '" + "a" * 19_000 + "'",
        "run_id IN (" + ",".join(f"'{n}'" for n in range(1000)) + ")",
    ]
    for source in answered:
        assert (await post(bench, "runs/search", {"experiment_ids": ["0"], "filter": source}))["runs"] == []
    order = [f"metrics.m{n}" for n in range(10)] + [f"tags.t{n} DESC" for n in range(10)]
    assert len((await post(bench, "runs/search", {"experiment_ids": ["0"], "order_by": order}))["runs"]) == 1
    refused = [
        {"filter": "tags.k LIKE '" + "%a" * 21 + "'"},
        {"filter": "tags.k LIKE 'a\\\\\\'"},
        {"filter": "start_time > 1e999"},
        {"filter": "(" * 10_000},
        {"filter": "x" * 1_000_000},
        {"order_by": [f"metrics.m{n}" for n in range(21)]},
        {"order_by": ["metrics.`\0`"]},
        {"order_by": ["name; drop table registry.runs"]},
    ]
    for asked in refused:
        answer = await post(bench, "runs/search", {"experiment_ids": ["0"], **asked}, expect=400)
        assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
        assert "position" in answer["message"], answer
    await post(bench, "runs/search", {"experiment_ids": ["0"], "filter": "tags.k = '\0'"}, expect=400)


async def test_each_kind_of_search_says_where_its_filter_is_wrong(bench: Bench) -> None:
    wrong = {"filter": "nope = 'a'"}
    for call in ("experiments/search", "runs/search", "logged-models/search"):
        answer = await post(bench, call, {"experiment_ids": ["0"], **wrong}, expect=400)
        assert "Invalid filter at position 0" in answer["message"]
    for call in ("registered-models/search", "model-versions/search"):
        answer = await get(bench, call, expect=400, **wrong)
        assert "Invalid filter at position 0" in answer["message"]
        answer = await get(bench, call, expect=400, order_by=["name", "name sideways"])
        assert "Invalid order_by[1] at position 5" in answer["message"]
