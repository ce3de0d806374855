"""Features that the policy withholds for a purpose: refused, or left out of the prediction and its explanation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import numpy as np
import pytest
import xgboost
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.patience import PATIENCE_S, wait_until
from clave_testing.served_models import API as REGISTRY
from clave_testing.served_models import onnx_model, upload, version_request
from clave_testing.stack import Stack, done

pytestmark = pytest.mark.stack
FEATURES = "/api/features/v1"


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as made:
        yield made


def trees(folder: Path) -> tuple[xgboost.Booster, bytes]:
    rows = np.random.default_rng(5).normal(size=(200, 3)).astype(np.float32)
    booster = xgboost.train(
        {"objective": "binary:logistic", "nthread": 1, "max_depth": 3},
        xgboost.DMatrix(rows, (rows.sum(1) > 0).astype(int)),
        5,
    )
    booster.save_model(folder / "model.ubj")
    return booster, (folder / "model.ubj").read_bytes()


@pytest.fixture(scope="module")
def served(client: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, xgboost.Booster]:
    """An endpoint whose features come from two views; one of them is for churn prevention alone."""
    word = uuid4().hex[:8]
    use, bills = f"use{word}", f"bills{word}"
    numbers = [{"name": name, "dtype": "float64"} for name in ("tenure", "income", "contract")]
    repository = done(client.get(f"{FEATURES}/repository"))
    del repository["revision"]
    repository["entities"].append({"name": f"person{word}", "join_keys": {f"id{word}": "int64"}})
    repository["feature_views"] += [
        {"name": use, "entity": f"person{word}", "features": [numbers[0], numbers[2]]},
        {"name": bills, "entity": f"person{word}", "features": [numbers[1]], "purposes": ["churn-prevention"]},
    ]
    references = [f"{use}:tenure", f"{bills}:income", f"{use}:contract"]
    repository["feature_services"].append({"name": word, "features": references, "purpose": "churn-prevention"})
    done(client.put(f"{FEATURES}/repository", json=repository))
    for view, header, row in ((use, "tenure,contract", "0.5,-0.5"), (bills, "income", "2.0")):
        csv = f"id{word},event_ts,{header}\n1,2026-10-01,{row}\n"
        done(client.post(f"{FEATURES}/views/{view}/ingest", content=csv))
    booster, data = trees(tmp_path_factory.mktemp("trees"))
    artifacts = [upload(client, "model.onnx", onnx_model()), upload(client, "model.ubj", data)]
    version = version_request(artifacts)
    version["signature"]["columns"] = [reference.replace(":", "__") for reference in references]
    done(client.post(f"{REGISTRY}/models", json={"name": word}))
    done(client.post(f"{REGISTRY}/models/{word}/versions", json=version))
    endpoint = {"name": word, "model": word, "version": 1, "namespace": "Development", "feature_service": word}
    done(client.post(f"{REGISTRY}/endpoints", json=endpoint))
    wait_until(lambda: ask(client, word).status_code == 200, what="an answer from stored features")
    return word, booster


def ask(client: httpx.Client, name: str, *, operation: str = "infer", **parameters: Any) -> httpx.Response:
    entities = {f"id{name}": [1]}
    return client.post(f"/v2/models/{name}/{operation}", json={"parameters": {"entities": entities, **parameters}})


def test_the_services_own_purpose_opens_what_it_was_made_for(
    client: httpx.Client, served: tuple[str, xgboost.Booster]
) -> None:
    answer = done(ask(client, served[0], explain=True))
    assert "features_withheld" not in answer["parameters"]
    assert answer["parameters"]["columns"][1] == f"bills{served[0]}__income"
    assert answer["outputs"][0]["data"] == pytest.approx([1 / (1 + np.exp(-1.0))], abs=1e-6)


def test_another_purpose_is_refused_and_the_refusal_says_what_would_help(
    client: httpx.Client, served: tuple[str, xgboost.Booster]
) -> None:
    refused = ask(client, served[0], purpose="marketing")
    assert (refused.status_code, refused.json()["code"]) == (403, "feature_masked"), refused.text
    assert refused.json()["reasons"] == ["purpose_not_permitted"]
    assert "parameters.on_withheld" in refused.json()["error"]


def test_whoever_accepts_it_is_answered_without_what_is_withheld(
    client: httpx.Client, served: tuple[str, xgboost.Booster]
) -> None:
    name, booster = served
    expected = booster.predict(xgboost.DMatrix([[0.5, np.nan, -0.5]]), pred_contribs=True)[0]
    answer = done(ask(client, name, operation="explain", purpose="marketing", on_withheld="mask"))
    assert answer["parameters"]["columns"] == [f"use{name}__tenure", "withheld", f"use{name}__contract"]
    assert answer["parameters"]["features_withheld"] == 1
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    assert [*found["contributions"], *found["base_value"]] == pytest.approx(expected.tolist(), abs=1e-5)
    predicted = done(ask(client, name, purpose="marketing", on_withheld="mask"))
    assert predicted["parameters"]["features_withheld"] == 1
    assert predicted["outputs"][0]["data"] == [None]  # this model has no answer without an income


def read(stack: Stack, base: str, name: str, **headers: str) -> httpx.Response:
    """Read the features of a service straight from the feature store."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return httpx.post(
        f"{base}{FEATURES}/online/read",
        json={"feature_service": name, "entities": {f"id{name}": [1]}},
        headers={**stack.headers, **named},
        timeout=PATIENCE_S,
    )


def test_headers_state_purpose_and_masking_through_the_edge_and_at_the_port(
    stack: Stack, served: tuple[str, xgboost.Booster]
) -> None:
    name, _ = served
    for base in (stack.url, stack.services["features"]["http"]):
        refused = read(stack, base, name, clave_purpose="marketing")
        assert (refused.status_code, refused.json()["reasons"]) == (403, ["purpose_not_permitted"])
        masked = read(stack, base, name, clave_purpose="marketing", clave_on_withheld="mask")
        assert masked.headers["x-clave-masked"] == f"bills{name}__income"
        assert done(masked)["values"] == [[0.5, None, -0.5]]
        whole = read(stack, base, name, clave_purpose="churn-prevention")
        assert done(whole)["values"] == [[0.5, 2.0, -0.5]]


def test_headers_of_services_say_nothing_when_strangers_send_them_through_the_edge(
    stack: Stack, served: tuple[str, xgboost.Booster]
) -> None:
    name, _ = served
    assert done(read(stack, stack.url, name, x_clave_purpose="marketing"))["values"] == [[0.5, 2.0, -0.5]]
    kept = read(stack, stack.url, name, clave_purpose="marketing", x_clave_on_withheld="mask")
    assert (kept.status_code, kept.json()["reasons"]) == (403, ["purpose_not_permitted"])


def test_the_same_holds_over_grpc(stack: Stack, served: tuple[str, xgboost.Booster]) -> None:
    name, _ = served
    for address in (stack.grpc, stack.services["inference"]["grpc"]):
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
            )

            def infer(call: Any = call, **parameters: str) -> pb.ModelInferResponse:
                asked = pb.ModelInferRequest(model_name=name)
                for key, value in {"entities": f'{{"id{name}": [1]}}', **parameters}.items():
                    asked.parameters[key].string_param = value
                metadata = [("authorization", stack.headers["authorization"]), ("x-clave-purpose", "churn-prevention")]
                return call(asked.SerializeToString(), metadata=metadata, timeout=PATIENCE_S)

            assert "features_withheld" not in infer(purpose="churn-prevention").parameters
            with pytest.raises(grpc.RpcError) as refused:
                infer(purpose="marketing")
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED, (address, refused.value.details())
            masked = infer(purpose="marketing", on_withheld="mask")
            assert masked.parameters["features_withheld"].int64_param == 1
