"""The unmodified MLflow client against a stack started by ``clave up``, with authentication on."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import numpy as np
import pytest
import xgboost
from clave_testing.stack import Stack
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

pytestmark = [pytest.mark.integration, pytest.mark.stack]


@pytest.fixture
def client(stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MlflowClient]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", stack.admin_key)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    mlflow.set_tracking_uri(stack.url)
    mlflow.set_registry_uri(stack.url)
    yield MlflowClient()
    while mlflow.active_run() is not None:
        mlflow.end_run()


@pytest.fixture
def experiment(client: MlflowClient) -> str:
    name = f"churn-{uuid4().hex[:8]}"
    mlflow.set_experiment(name)
    return str(client.get_experiment_by_name(name).experiment_id)


def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    features = generator.random((120, 3)).astype(np.float32)
    return features, (features[:, 0] > 0.5).astype(np.int64)


def name_of(what: str) -> str:
    return f"{what}-{uuid4().hex[:8]}"


def test_basic_works_as_bearer_does_and_a_wrong_key_is_refused(
    client: MlflowClient, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get_experiment("0").name == "Default"
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    with pytest.raises(MlflowException, match="credential"):
        client.get_experiment("0")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", stack.admin_key)
    assert client.get_experiment("0").name == "Default"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(MlflowException):
        client.get_experiment("0")


def test_a_run_keeps_params_metrics_with_history_tags_inputs_and_artifacts(
    client: MlflowClient, experiment: str, tmp_path: Path
) -> None:
    with mlflow.start_run(run_name="first", description="a note") as run:
        mlflow.log_params({"depth": 3, "eta": 0.1})
        for step in range(5):
            mlflow.log_metric("auc", 0.5 + step / 10, step=step)
        mlflow.log_metrics({"nan": float("nan"), "inf": float("inf")})
        mlflow.log_metric("later", 1.0, synchronous=False).wait()
        for step in range(50):
            mlflow.log_metrics({"loss": 1 / (step + 1)}, step=step, synchronous=False)
        mlflow.log_params({"async": "yes"}, synchronous=False)
        mlflow.flush_async_logging()
        mlflow.set_tags({"team": "growth", "a/b c": "odd"})
        features, _ = data()
        mlflow.log_input(mlflow.data.from_numpy(features, name="churn"), context="training")
        mlflow.log_text("ünïcode", "notes/ü n/größe.txt")
        (tmp_path / "empty").touch()
        (tmp_path / "large.bin").write_bytes(os.urandom(20_000_000))
        mlflow.log_artifacts(str(tmp_path), "all")
        with mlflow.start_run(nested=True):
            mlflow.log_metric("child", 1)
    found = client.get_run(run.info.run_id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert found.data.params == {"depth": "3", "eta": "0.1", "async": "yes"}
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == list(range(50))
    assert (found.data.metrics["auc"], np.isnan(found.data.metrics["nan"])) == (0.9, True)
    assert (found.data.tags["a/b c"], found.inputs.dataset_inputs[0].dataset.name) == ("odd", "churn")
    history = client.get_metric_history(run.info.run_id, "auc")
    assert [(metric.step, round(metric.value, 1)) for metric in history] == [(n, 0.5 + n / 10) for n in range(5)]
    assert [f.path for f in client.list_artifacts(run.info.run_id, "notes/ü n")] == ["notes/ü n/größe.txt"]
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/ü n/größe.txt") == "ünïcode"
    got = Path(mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/all", dst_path=str(tmp_path / "back")))
    assert (got / "large.bin").read_bytes() == (tmp_path / "large.bin").read_bytes()
    assert (got / "empty").read_bytes() == b""


def test_batches_searches_and_pages_speak_the_whole_grammar(client: MlflowClient, experiment: str) -> None:
    for number in range(7):
        run = client.create_run(experiment, run_name=f"run {number}")
        metrics = [Metric("auc", number / 10, 1, 0)]
        client.log_batch(run.info.run_id, metrics, [Param("depth", str(number))], [RunTag("odd", str(number % 2))])
        client.set_terminated(run.info.run_id)

    def names(expression: str, *order: str) -> list[str]:
        found = client.search_runs([experiment], expression, order_by=list(order))
        return [run.info.run_name[-1] for run in found]

    assert names("metrics.auc >= 0.4", "metrics.auc DESC") == ["6", "5", "4"]
    assert names("tags.odd = '1' and params.depth != '3'", "params.depth ASC") == ["1", "5"]
    assert names("attributes.run_name ILIKE 'RUN %' and attributes.status = 'FINISHED'", "attributes.run_name") == list(
        "0123456"
    )
    assert names("params.depth LIKE '%2' AND tags.`odd` IS NOT NULL") == ["2"]
    assert names("attributes.run_name IN ('run 1', 'run 6')", "metrics.auc") == ["1", "6"]
    page = client.search_runs([experiment], max_results=3, order_by=["metrics.auc"])
    seen = [run.info.run_name[-1] for run in page]
    while page.token:
        page = client.search_runs([experiment], max_results=3, order_by=["metrics.auc"], page_token=page.token)
        seen += [run.info.run_name[-1] for run in page]
    assert seen == list("0123456")
    for wrong in ("metrics.auc = 'x'", "params.depth = 3", "colour = 'red'", "metrics.auc > 1 OR metrics.auc < 0"):
        with pytest.raises(MlflowException) as refused:
            names(wrong)
        assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def test_experiments_and_runs_are_renamed_tagged_deleted_and_restored(client: MlflowClient, experiment: str) -> None:
    client.rename_experiment(experiment, name_of("renamed"))
    client.set_experiment_tag(experiment, "k", "v")
    assert client.get_experiment(experiment).tags["k"] == "v"
    found = client.search_experiments(filter_string="tags.k = 'v'", order_by=["name ASC"])
    assert experiment in {each.experiment_id for each in found}
    run = client.create_run(experiment).info.run_id
    client.set_tag(run, "t", "1")
    client.delete_tag(run, "t")
    client.delete_run(run)
    with pytest.raises(MlflowException):
        client.log_metric(run, "m", 1)
    client.restore_run(run)
    client.delete_experiment(experiment)
    assert client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    client.restore_experiment(experiment)
    assert client.get_run(run).info.lifecycle_stage == "active"


def test_an_xgboost_model_is_registered_found_and_loaded_by_every_address(
    client: MlflowClient, experiment: str
) -> None:
    features, labels = data()
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(features, label=labels), 4)
    name = name_of("xgb")
    with mlflow.start_run() as run:
        signature = infer_signature(features, booster.predict(xgboost.DMatrix(features)))
        logged = mlflow.xgboost.log_model(
            booster, name="model", signature=signature, registered_model_name=name, input_example=features[:2]
        )
        mlflow.log_metric("auc", 0.9, model_id=logged.model_id)
    version = client.get_model_version(name, "1")
    assert (version.status, version.run_id) == ("READY", run.info.run_id)
    second = mlflow.register_model(f"runs:/{run.info.run_id}/model", name, tags={"from": "run"})
    assert second.version == "2"
    third = mlflow.register_model(f"models:/{logged.model_id}", name)
    assert (third.version, third.run_id) == ("3", run.info.run_id)
    client.set_registered_model_alias(name, "champion", "1")
    client.transition_model_version_stage(name, "2", "Production")
    copied = client.copy_model_version(f"models:/{name}/1", name_of("copied"))
    expected = booster.predict(xgboost.DMatrix(features))
    addresses = [
        f"models:/{name}/1",
        f"models:/{name}@champion",
        f"models:/{name}/latest",
        f"models:/{name}/Production",
        f"models:/{copied.name}/{copied.version}",
        f"models:/{logged.model_id}",
    ]
    for address in (*addresses, f"runs:/{run.info.run_id}/model"):
        assert np.allclose(mlflow.pyfunc.load_model(address).predict(features), expected), address
    assert mlflow.models.get_model_info(f"models:/{name}@champion").signature == signature
    models = mlflow.search_logged_models([experiment], filter_string="metrics.auc > 0.8", output_format="list")
    assert [model.model_id for model in models] == [logged.model_id]
    assert client.get_run(run.info.run_id).outputs.model_outputs[0].model_id == logged.model_id


def test_logged_models_are_searched_in_order_and_pages_tagged_and_deleted(
    client: MlflowClient, experiment: str
) -> None:
    made = []
    for number in range(5):
        model = client.create_logged_model(
            experiment, name=f"grün {number}", params={"depth": str(number)}, tags={"odd": str(number % 2)}
        )
        with mlflow.start_run():
            mlflow.log_metric("auc", number / 10, model_id=model.model_id)
        made.append(client.finalize_logged_model(model.model_id, "READY").model_id)
    order = [{"field_name": "metrics.auc", "ascending": False}]
    page = client.search_logged_models([experiment], order_by=order, max_results=2)
    seen = [model.model_id for model in page]
    while page.token:
        page = client.search_logged_models([experiment], order_by=order, max_results=2, page_token=page.token)
        seen += [model.model_id for model in page]
    assert seen == list(reversed(made))

    def names(expression: str) -> list[str]:
        found = client.search_logged_models(
            [experiment], expression, order_by=[{"field_name": "creation_time", "ascending": True}]
        )
        return [model.name[-1] for model in found]

    assert names("params.depth = '3'") == ["3"]
    assert names("tags.odd = '1' AND metrics.auc >= 0.2") == ["3"]
    assert names("name = 'grün 4'") == ["4"]
    client.set_logged_model_tags(made[0], {"kept": "yes"})
    client.delete_logged_model_tag(made[0], "odd")
    tags = client.get_logged_model(made[0]).tags
    assert (tags["kept"], "odd" in tags) == ("yes", False)
    client.delete_logged_model(made[4])
    assert names("") == list("0123")


def test_registered_models_and_experiments_are_paged_in_order(client: MlflowClient) -> None:
    prefix = name_of("page")
    for number in range(5):
        client.create_registered_model(f"{prefix} ü{number}")
        client.create_experiment(f"{prefix} ü{number}", tags={"prefix": prefix})
    expression, order = f"name LIKE '{prefix}%'", ["name DESC"]
    for search in (client.search_registered_models, client.search_experiments):
        page = search(filter_string=expression, order_by=order, max_results=2)
        seen = [found.name[-1] for found in page]
        while page.token:
            page = search(filter_string=expression, order_by=order, max_results=2, page_token=page.token)
            seen += [found.name[-1] for found in page]
        assert seen == list("43210")
    with pytest.raises(MlflowException, match="position 5"):
        client.search_registered_models("name ~ 'x'")


def test_sklearn_and_onnx_flavours_are_kept_and_only_the_pickled_one_is_unsafe(
    client: MlflowClient, experiment: str, stack: Stack
) -> None:
    import httpx
    from onnx import TensorProto, helper

    features, labels = data()
    pickled, graph_name = name_of("sk"), name_of("onnx")
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            LogisticRegression().fit(features, labels),
            name="sk",
            registered_model_name=pickled,
            serialization_format="cloudpickle",
            pip_requirements=[],
        )
        weights = helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [0.5] * 3)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["input", "w"], ["score"])],
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
            [weights],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        mlflow.onnx.log_model(model, name="graph", registered_model_name=graph_name, pip_requirements=[])
    assert mlflow.onnx.load_model(f"models:/{graph_name}/1").graph.node[0].op_type == "MatMul"
    assert mlflow.sklearn.load_model(f"models:/{pickled}/1").coef_.shape == (1, 3)
    with httpx.Client(base_url=stack.url, headers=stack.headers) as own:
        for name, safe in ((pickled, False), (graph_name, True)):
            described = own.get(f"/api/registry/v1/models/{name}/versions/1").json()
            assert (not described["unsafe_paths"]) == safe, described
        refused = own.post("/api/registry/v1/endpoints", json={"name": pickled, "model": pickled, "version": 1})
        assert refused.status_code in {403, 409, 422}, refused.text


def test_registered_models_are_described_tagged_staged_searched_renamed_copied_and_deleted(
    client: MlflowClient, experiment: str
) -> None:
    name = name_of("meta")
    client.create_registered_model(name, tags={"team": "growth"}, description="first")
    with pytest.raises(MlflowException) as twice:
        client.create_registered_model(name)
    assert twice.value.error_code == "RESOURCE_ALREADY_EXISTS"
    for number in range(3):
        client.create_model_version(name, f"s3://bucket/{number}", tags={"n": str(number)}, description=f"no {number}")
    client.update_registered_model(name, "second")
    client.update_model_version(name, "1", "changed")
    client.set_model_version_tag(name, "1", "k", "v")
    client.delete_model_version_tag(name, "1", "k")
    client.transition_model_version_stage(name, "1", "Production")
    client.transition_model_version_stage(name, "2", "Production", archive_existing_versions=True)
    assert client.get_model_version(name, "1").current_stage == "Archived"
    assert [v.version for v in client.get_latest_versions(name, ["Production"])] == ["2"]
    found = client.search_registered_models(f"name LIKE '{name[:8]}%' and tags.team = 'growth'", order_by=["name DESC"])
    assert name in {model.name for model in found}
    versions = client.search_model_versions(f"name = '{name}' and tags.n != '0'", order_by=["version_number ASC"])
    assert [v.version for v in versions] == ["2", "3"]
    page = client.search_model_versions(f"name = '{name}'", max_results=2)
    assert [v.version for v in page] + [
        v.version for v in client.search_model_versions(f"name = '{name}'", max_results=2, page_token=page.token)
    ] == ["2", "1", "3"]
    copied = client.copy_model_version(f"models:/{name}/3", name_of("copied"))
    assert copied.version == "1"
    client.set_registered_model_alias(name, "champion", "3")
    renamed = name_of("renamed")
    client.rename_registered_model(name, renamed)
    assert client.get_model_version_by_alias(renamed, "champion").version == "3"
    client.delete_registered_model_alias(renamed, "champion")
    client.delete_model_version(renamed, "3")
    with pytest.raises(MlflowException) as missing:
        client.get_model_version(renamed, "3")
    assert missing.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert client.create_model_version(renamed, "s3://bucket/4").version == "4"
    client.delete_registered_model(renamed)


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(
    client: MlflowClient, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(5 * 1024 * 1024))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 * 1024 * 1024))
    big = tmp_path / "big model.bin"
    big.write_bytes(os.urandom(17 * 1024 * 1024))
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(big), "large")
    back = mlflow.artifacts.download_artifacts(
        f"runs:/{run.info.run_id}/large/big model.bin", dst_path=str(tmp_path / "b")
    )
    assert Path(back).read_bytes() == big.read_bytes()
