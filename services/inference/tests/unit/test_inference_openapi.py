"""The OpenAPI document tells of every route of the protocol, infer included, with examples that hold."""

from typing import Any

import httpx
import orjson
import pytest
from clave_inference.api_description import describe_everything
from clave_inference.codecs import rest_json
from clave_inference.domain.errors import BodyTooLarge, InvalidInferRequest
from clave_inference.services.feature_requests import checked_entities, read_terms


@pytest.fixture
def document(bench: Any) -> dict[str, Any]:
    describe_everything(bench.app)
    bench.app.openapi()
    return bench.app.openapi()  # asked twice: the second is the first


def test_every_route_has_an_example(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            shown = answers["409"] if path.endswith("load") else answers["200"]
            assert "example" in shown["content"]["application/json"], (method, path)
    for name in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/explain"):
        assert {"400", "401", "403", "404", "413", "429", "503", "504"} <= set(
            document["paths"][name]["post"]["responses"]
        )


def test_the_examples_of_requests_are_requests(document: dict[str, Any]) -> None:
    examples = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]["application/json"]
    for name, example in examples["examples"].items():
        request = rest_json.decode(orjson.dumps(example["value"]))
        assert request.inputs or checked_entities(request.parameters["entities"], rows_max=10), name
        assert read_terms(request.parameters).masks == (name == "masked")
    refused = document["paths"]["/v2/models/{model}/infer"]["post"]["responses"]
    assert refused["413"]["content"]["application/json"]["example"]["error"] == BodyTooLarge(8 << 20).detail
    assert refused["400"]["content"]["application/json"]["example"]["code"] == InvalidInferRequest.code


def test_answers_look_like_their_examples(document: dict[str, Any], standing_server: Any) -> None:
    headers = {"authorization": "Bearer good"}
    for path in ("/v2", "/v2/models", "/v2/models/{model}", "/v2/models/{model}/config", "/v2/models/{model}/stats"):
        example = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
        answer = httpx.get(standing_server.url + path.replace("{model}", "churn"), headers=headers).json()
        assert set(answer) == set(example), path
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    answer = httpx.post(
        f"{standing_server.url}/v2/models/churn/infer", json={"id": "x", "inputs": [tensor]}, headers=headers
    )
    example = document["paths"]["/v2/models/{model}/infer"]["post"]["responses"]["200"]
    assert set(answer.json()) == set(example["content"]["application/json"]["example"])
