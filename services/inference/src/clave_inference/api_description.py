"""The share of the OpenAPI document that no route gives: infer, in front of FastAPI, and an example of each call.

The examples are calls to one endpoint, ``churn``, with a model of three columns.
"""

from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI

_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
_JSON: Final = "application/json"
Document = dict[str, Any]

_ROWS: Final = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [12, 70.35, None]}
_SCORES: Final = {"name": "probabilities", "shape": [1, 2], "datatype": "FP32", "data": [0.38, 0.62]}
_REQUESTS: Final[dict[str, Document]] = {
    "tensor": {"summary": "A row as a tensor; null is a missing value", "value": {"id": "call-1", "inputs": [_ROWS]}},
    "entities": {
        "summary": "Keys; the feature store has the values",
        "value": {"parameters": {"entities": {"customer_id": ["C00007"]}}},
    },
    "sticky": {
        "summary": "Stays on its arm of a rollout, and waits half a second at most",
        "value": {"inputs": [_ROWS], "parameters": {"routing_key": "C00007", "timeout": 500_000}},
    },
    "explained": {
        "summary": "With the reasons beside the score",
        "value": {"inputs": [_ROWS], "parameters": {"explain": True}},
    },
    "masked": {
        "summary": "For another purpose, without what the policy withholds for it",
        "value": {
            "parameters": {
                "entities": {"customer_id": ["C00007"]},
                "purpose": "marketing",
                "on_withheld": "mask",
            }
        },
    },
    "output": {"summary": "One output only", "value": {"inputs": [_ROWS], "outputs": [{"name": "probabilities"}]}},
}
_PREDICTION: Final = {
    "model_name": "churn",
    "model_version": "3",
    "id": "call-1",
    "parameters": {"prediction_id": "prd_x7Jc0001", "arm": "live"},
    "outputs": [_SCORES],
}
_EXPLANATION: Final = {
    "model_name": "churn",
    "model_version": "3",
    "parameters": {"arm": "live", "scale": "margin", "columns": ["tenure", "monthly_charges", "income"]},
    "outputs": [
        {"name": "contributions", "datatype": "FP64", "shape": [1, 3], "data": [0.41, 0.52, -0.03]},
        {"name": "base_value", "datatype": "FP64", "shape": [1], "data": [-0.41]},
    ],
}
_METADATA: Final = {
    "name": "churn",
    "versions": ["2", "3"],
    "platform": "onnx_onnxv1",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}],
    "parameters": {
        "model": "churn",
        "version": "3",
        "status": "approved",
        "manifest_digest": "9f86d081884c7d65...",
        "onnx_digest": "60303ae22b998861...",
        "signature_verified": True,
    },
}
_CONFIG: Final = {
    "name": "churn",
    "platform": "onnx_onnxv1",
    "backend": "onnxruntime",
    "max_batch_size": 0,
    "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": [-1, 3]}],
    "output": [{"name": "probabilities", "data_type": "TYPE_FP32", "dims": [-1, 2]}],
    "parameters": {"columns": {"string_value": "tenure,monthly_charges,income"}},
}
_STATISTICS: Final = {
    "model_stats": [
        {
            "name": "churn",
            "version": "3",
            "inference_count": 1200,
            "execution_count": 310,
            "inference_stats": {"success": {"count": 1190, "ns": 2400000000}, "fail": {"count": 2, "ns": 0}},
        }
    ]
}
_INDEX: Final = [
    {"name": "churn", "version": "3", "state": "READY", "reason": ""},
    {"name": "churn", "version": "4", "state": "UNAVAILABLE", "reason": "the runtime refused it: ..."},
]
_ANSWERS: Final[dict[str, Any]] = {
    "/v2": {"name": "clave-inference", "version": "1.0", "extensions": ["binary_tensor_data", "statistics"]},
    "/v2/health/live": {"live": True, "ready": True},
    "/v2/health/ready": {"live": True, "ready": True},
    "/v2/models": {"models": ["churn"]},
    "/v2/models/stats": _STATISTICS,
    "/v2/repository/index": _INDEX,
    **dict.fromkeys((_MODEL, _VERSION), _METADATA),
    **{f"{path}/ready": {"name": "churn", "ready": True} for path in (_MODEL, _VERSION)},
    **{f"{path}/config": _CONFIG for path in (_MODEL, _VERSION)},
    **{f"{path}/stats": _STATISTICS for path in (_MODEL, _VERSION)},
    **{f"{path}/infer": _PREDICTION for path in (_MODEL, _VERSION)},
    **{f"{path}/explain": _EXPLANATION for path in (_MODEL, _VERSION)},
}
_REFUSALS: Final[dict[str, tuple[str, str, str]]] = {
    "400": (
        "The request does not fit the protocol or the model.",
        "invalid_infer_request",
        "inputs[0].shape: is [1, 2] where the model takes [-1, 3]. -1 stands for any size.",
    ),
    "401": (
        "No credential, or a wrong one.",
        "unauthenticated",
        "Predictions need a credential: send 'Authorization: Bearer <api key>'. Make a key with 'clave keys create'.",
    ),
    "403": (
        "The policy says no; the reasons are in the body.",
        "permission_denied",
        "app:web may not inference:predict on endpoints/churn: no_grant.",
    ),
    "404": (
        "No such endpoint, model or version.",
        "model_unknown",
        "There is no model 'chrun' here. POST /v2/repository/index lists what is served.",
    ),
    "409": (
        "The feature service cannot answer as it is set up.",
        "not_found",
        "Features: There is no feature service 'churn'.",
    ),
    "413": (
        "The body is too large.",
        "body_too_large",
        "The body is larger than 8388608 bytes. Split the rows over several requests.",
    ),
    "429": (
        "A limit is used up; Retry-After says for how long.",
        "rate_limited",
        "The limit of 1000 rows a minute is used up; try again in 0.06 s.",
    ),
    "503": (
        "Overloaded, not loaded yet, or a needed peer is away; Retry-After says when to come back.",
        "overloaded",
        "16384 rows wait already (limit 16384). Slow down and try again.",
    ),
    "504": (
        "The request's time-out passed first.",
        "deadline_passed",
        "The request's timeout passed before the model ran; nothing was predicted.",
    ),
}
_ASKS: Final = tuple(f"{path}/{operation}" for path in (_MODEL, _VERSION) for operation in ("infer", "explain"))


def describe_everything(app: FastAPI) -> None:
    """Let an application's OpenAPI document tell of infer as well, with an example of every call."""
    plain: Callable[[], Document] = app.openapi

    def described() -> Document:
        return completed(plain())

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def completed(document: Document) -> Document:
    """Add infer and the examples to a document; the same again where that was done before."""
    paths: dict[str, dict[str, Document]] = document["paths"]
    for path in (_MODEL, _VERSION):
        paths.setdefault(f"{path}/infer", {"post": _infer(path)})
    for path, answer in _ANSWERS.items():
        for operation in paths.get(path, {}).values():
            operation["responses"].setdefault("200", {"description": "OK"})["content"] = {_JSON: {"example": answer}}
    for path in _ASKS:
        operation = paths[path]["post"]
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": {}, "examples": _REQUESTS}}}
        operation["responses"].pop("422", None)
        operation["responses"].update({status: _refusal(status) for status in _REFUSALS})
    for name in ("load", "unload"):
        refused = paths[f"/v2/repository/models/{{model}}/{name}"]["post"]["responses"]
        refused["409"] = _example(
            "Always: the registry decides which versions are loaded.",
            "managed_by_registry",
            "Which versions of 'churn' are loaded follows from the registry: change its endpoint.",
        )
    return document


def _infer(path: str) -> Document:
    names = ["model", "version"] if path == _VERSION else ["model"]
    return {
        "tags": ["open inference protocol"],
        "summary": "Predict" if path == _MODEL else "Predict with one version",
        "description": (
            "JSON, or JSON and binary tensors behind it (header `Inference-Header-Content-Length`). The answer's "
            "`parameters.prediction_id` names the prediction when its outcome is told."
        ),
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names],
        "responses": {"200": {"description": "The prediction"}},
    }


def _refusal(status: str) -> Document:
    return _example(*_REFUSALS[status])


def _example(description: str, code: str, detail: str) -> Document:
    return {"description": description, "content": {_JSON: {"example": {"error": detail, "code": code}}}}
