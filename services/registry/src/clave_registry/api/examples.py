"""Examples in the OpenAPI document: for every route of the own API one request and one answer, as they really are.

They are put onto the routes in one place, so that the routes stay readable and a test can hold every one against its
model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clave_contracts.registry import API
from fastapi import APIRouter
from fastapi.routing import APIRoute

_AT = "2026-11-22T08:00:00Z"
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_MODEL = {
    "name": "churn",
    "description": "Will this customer leave?",
    "tags": {"team": "retention"},
    "tenant": "default",
    "risk_class": "limited",
    "latest_version": 3,
    "aliases": {"champion": 2},
    "created_at": _AT,
    "created_by": "user:ana",
}
_ARTIFACT = {"path": "model.onnx", "digest": _DIGEST, "size": 48213, "media_type": "application/octet-stream"}
_SIGNATURE = {
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}],
    "columns": ["tenure", "monthly_charges", "contract"],
    "positive_output": "score:0",
    "threshold": 0.42,
}
_DATASET = {"id": "ts_018f", "name": "churn", "digest": _DIGEST, "rows": 5634, "feature_views": {"billing": 2}}
_KEEP = {"reason": "Case 2026-118: keep until the court decides"}
_HOLD = {
    **_KEEP,
    **dict.fromkeys(("digest", "lifted_by", "lifted_at", "lift_reason")),
    "model": "churn",
    "version": 3,
    "by": "user:eve",
    "at": _AT,
}
_U = f"{API}/uploads/{{upload}}"
_UPLOAD = {
    "id": "upl_018f",
    "digest": _DIGEST,
    "parts": 12,
    "there": [{"number": 1, "size": 67_108_864}],
    "finished": False,
}
_GATE = {
    "gate": "auc_min",
    "verdict": "passed",
    "detail": "AUC 0.84, at least 0.80",
    "estimate": 0.84,
    "low": 0.82,
    "high": 0.86,
    "limit": 0.8,
    "n": 1409,
}
_LINEAGE = {"run_id": "run_018f", "pipeline": "churn@3", "datasets": [_DATASET], "parent_version": 2}
_EVALUATION = {"metrics": {"test": {"auc": 0.84}}, "gates": [_GATE], "passed": True, "rows": 1409}
_VERSION = {
    "model": "churn",
    "version": 3,
    "status": "submitted",
    "manifest_digest": _DIGEST,
    "artifacts": [_ARTIFACT],
    "signature": _SIGNATURE,
    "params": {"max_depth": 4},
    "lineage": _LINEAGE,
    "evaluation": _EVALUATION,
    "contributors": ["user:ana"],
    "approvals_needed": 1,
    "status_reason": "waits for: 1 more independent approval",
    "created_at": _AT,
    "created_by": "user:ana",
}
_APPROVED = {
    **_VERSION,
    "status": "approved",
    "evaluated_by": "service:trainer",
    "approved_by": "user:bob",
    "approvals": [{"by": "user:bob", "decision": "approve", "at": _AT, "comment": "Checked the slices."}],
    "status_reason": "approved by user:bob",
}
_ENDPOINT = {
    "name": "churn",
    "model": "churn",
    "namespace": "Production",
    "live_version": 2,
    "previous_version": 1,
    "routes": [{"version": 2, "arm": "live", "weight": 1.0}],
    "observed": [{"instance": "inference-1", "model": "churn", "version": 2, "state": "ready"}],
    "in_sync": True,
    "etag": '"7"',
    "created_at": _AT,
}
_PLAN = {
    "steps": [{"weight": 0.1, "bake_s": 60, "rows_min": 100}, {"weight": 0.5, "bake_s": 120, "rows_min": 500}],
    "shadow_s": 30,
    "step_s_max": 3600,
    "thresholds": {"rows_min": 100, "error_rate_max": 0.02, "latency_ratio_max": 1.5},
}
_ROLLOUT = {
    "id": "rol_018f",
    "endpoint": "churn",
    "model": "churn",
    "version": 3,
    "from_version": 2,
    "state": "canary",
    "step": 0,
    "weight": 0.1,
    "plan": _PLAN,
    "reason": "new quarter",
    "outcome": "waiting: baking 60 s, 34 of 100 rows",
    "events": [{"at": _AT, "state": "canary", "step": 0, "weight": 0.1, "detail": "entered canary", "by": "user:eve"}],
    "created_at": _AT,
    "created_by": "user:eve",
}
_WEBHOOK = {
    "id": "whk_018f",
    "url": "https://hooks.example.org/clave",
    "events": ["RolloutChanged"],
    "model": "churn",
    "created_at": _AT,
    "created_by": "user:eve",
    "updated_at": _AT,
}
_DELIVERY = {
    "id": "dlv_018f",
    "webhook_id": "whk_018f",
    "event_id": "evt_018f",
    "event": "RolloutChanged",
    "status": "delivered",
    "attempts": [{"at": _AT, "status": 204, "error": "", "duration_ms": 41.2}],
    "created_at": _AT,
}
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - an example of the form
_HISTORY = {
    "endpoint": "churn",
    "model": "churn",
    "version": 2,
    "since": _AT,
    "until": None,
    "by": "service:registry",
    "reason": "promoted: new quarter",
    "approved_by": ["user:bob"],
    "datasets": [_DATASET],
    "run_id": "run_018f",
    "gates": [_GATE],
}
_CARD = {
    "card_version": "1.0",
    "title": "Customer churn",
    "model_details": {"id": "churn-v3", "model": "churn", "version": 3, "algorithm": "Gradient-boosted trees"},
    "usage_notes": {"intended_use": "Ranking customers for a retention offer."},
    "governance": {"status": "submitted", "missing_fields": []},
}
_USED = {"model": "churn", "version": 3, "status": "approved", "created_at": _AT, "endpoints": ["churn"]}
_BLOB = {"digest": _DIGEST, "size": 48213}


@dataclass(frozen=True, slots=True)
class Example:
    """One route's example; `request` None = no body, `answer` None = an answer without a JSON body."""

    answer: Any = None
    request: Any = None


_V = f"{API}/models/{{model}}/versions/{{version}}"
_A = f"{API}/models/{{model}}/aliases/{{alias}}"
_E = f"{API}/endpoints/{{endpoint}}"
_R = f"{API}/rollouts/{{rollout_id}}"
_W = f"{API}/webhooks/{{webhook_id}}"
_REASON = {"reason": "complaints since noon"}
EXAMPLES: Mapping[tuple[str, str], Example] = {
    ("PUT", f"{API}/blobs/{{digest}}"): Example(_BLOB),
    ("HEAD", f"{API}/blobs/{{digest}}"): Example(),
    ("GET", f"{API}/blobs/{{digest}}"): Example(),
    ("POST", f"{API}/models"): Example(
        _MODEL, {"name": "churn", "risk_class": "limited", "tags": {"team": "retention"}}
    ),
    ("GET", f"{API}/models"): Example({"models": [_MODEL], "next_page_token": ""}),
    ("GET", f"{API}/models/{{model}}"): Example(_MODEL),
    ("PATCH", f"{API}/models/{{model}}"): Example(_MODEL, {"description": "Will this customer leave?"}),
    ("DELETE", f"{API}/models/{{model}}"): Example(),
    ("PUT", _A): Example(_MODEL, {"version": 2, "reason": "won the comparison"}),
    ("GET", _A): Example(_APPROVED),
    ("DELETE", _A): Example(),
    ("GET", f"{_A}/history"): Example(
        {"moves": [{"version": 2, "at": _AT, "by": "user:eve", "reason": "won"}], "next_page_token": ""}
    ),
    ("POST", f"{API}/models/{{model}}/versions"): Example(
        {**_VERSION, "status": "draft"},
        {"artifacts": [_ARTIFACT], "signature": _SIGNATURE, "lineage": _LINEAGE, "evaluation": _EVALUATION},
    ),
    ("GET", f"{API}/models/{{model}}/versions"): Example({"versions": [_APPROVED], "next_page_token": ""}),
    ("GET", _V): Example(_APPROVED),
    ("GET", f"{_V}/history"): Example(
        {"events": [{"at": _AT, "by": "user:ana", "action": "registered", "detail": ""}]}
    ),
    ("PATCH", f"{_V}/tags"): Example(_APPROVED, {"tags": {"quarter": "Q4", "draft": None}}),
    ("POST", f"{_V}/submit"): Example(_VERSION, {"namespace": "Production"}),
    ("POST", f"{_V}/approve"): Example(_APPROVED, {"comment": "Checked the slices.", "namespace": "Production"}),
    ("POST", f"{_V}/reject"): Example({**_VERSION, "status": "rejected"}, {"comment": "Unfair to seniors."}),
    ("POST", f"{_V}/archive"): Example({**_VERSION, "status": "archived"}, {"reason": "replaced"}),
    ("GET", f"{_V}/card"): Example(_CARD),
    ("PATCH", f"{_V}/card"): Example(_CARD, {"intended_use": "Ranking customers for a retention offer."}),
    ("GET", f"{_V}/card/diff"): Example(
        {
            "model": "churn",
            "this": 3,
            "other": 2,
            "split": "test",
            "metrics": [{"name": "auc", "this": 0.84, "other": 0.82, "difference": 0.02}],
            "same_rows": None,
            "changes": [{"path": "parameters.max_depth", "this": 4, "other": 5}],
        }
    ),
    ("GET", f"{_V}/ml-bom"): Example({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": []}),
    ("GET", f"{_V}/openlineage"): Example(
        {
            "eventType": "COMPLETE",
            "eventTime": _AT,
            "run": {"runId": "5f3c1b0e-7d0a-5d0b-9a51-0c1a7e0f2d11"},
            "job": {"namespace": "clave.trainer", "name": "churn"},
            "outputs": [{"namespace": "clave.registry", "name": "models/churn"}],
        }
    ),
    ("POST", f"{_V}/signatures"): Example(
        {
            "verified": True,
            "signatures": [
                {"key_id": _DIGEST, "verified": True, "added_at": _AT, "added_by": "user:eve", "bundle": "{...}"}
            ],
        }
    ),
    ("GET", f"{_V}/signatures"): Example({"verified": False, "signatures": []}),
    ("GET", f"{_V}/lineage"): Example(
        {
            "model": "churn",
            "version": 3,
            "manifest_digest": _DIGEST,
            "lineage": _LINEAGE,
            "ancestors": [{"version": 2, "status": "approved", "run_id": "run_017a"}],
            "endpoints": [{"endpoint": "churn", "since": _AT, "until": None, "by": "user:eve", "reason": "promoted"}],
            "rollouts": [],
        }
    ),
    ("POST", f"{API}/lineage/entity"): Example(
        {
            "training_sets": [{"id": "ts_018f", "name": "churn", "digest": _DIGEST, "matching_rows": 1}],
            "versions": [{**_USED, "training_sets": ["ts_018f"]}],
            "must_retrain": [{"endpoint": "churn", "model": "churn", "live_version": 3}],
            "must_not_return_to": [],
            "complete": True,
        },
        {"keys": {"customer_id": "7590-VHVEG"}},
    ),
    ("GET", f"{API}/lineage"): Example({"dataset_digest": _DIGEST, "dataset_id": None, "versions": [_USED]}),
    ("POST", f"{API}/endpoints"): Example(_ENDPOINT, {"name": "churn", "model": "churn", "version": 2}),
    ("GET", f"{API}/endpoints"): Example({"endpoints": [_ENDPOINT], "next_page_token": ""}),
    ("GET", _E): Example(_ENDPOINT),
    ("GET", f"{_E}/history"): Example({"entries": [_HISTORY], "next_page_token": ""}),
    ("POST", f"{_E}/roll-back"): Example(_ENDPOINT, _REASON),
    ("POST", f"{_E}/rollouts"): Example(_ROLLOUT, {"version": 3, "plan": _PLAN, "reason": "new quarter"}),
    ("GET", f"{_E}/rollouts"): Example({"rollouts": [_ROLLOUT], "next_page_token": ""}),
    ("GET", _R): Example(_ROLLOUT),
    ("POST", f"{_R}/pause"): Example({**_ROLLOUT, "state": "paused"}, _REASON),
    ("POST", f"{_R}/resume"): Example(_ROLLOUT, _REASON),
    ("POST", f"{_R}/abort"): Example({**_ROLLOUT, "state": "aborted"}, _REASON),
    ("GET", f"{API}/desired"): Example({"revision": "4be1", "endpoints": [], "versions": []}),
    ("PUT", f"{API}/observed/{{instance}}"): Example(
        None, {"revision": "4be1", "versions": [{"model": "churn", "version": 2, "state": "ready"}]}
    ),
    ("POST", f"{API}/webhooks"): Example(
        {**_WEBHOOK, "secret": _SECRET}, {"url": "https://hooks.example.org/clave", "events": ["RolloutChanged"]}
    ),
    ("GET", f"{API}/webhooks"): Example({"webhooks": [_WEBHOOK], "next_page_token": ""}),
    ("GET", _W): Example(_WEBHOOK),
    ("PATCH", _W): Example(_WEBHOOK, {"enabled": True}),
    ("DELETE", _W): Example(),
    ("POST", f"{_W}/rotate-secret"): Example({**_WEBHOOK, "secret": _SECRET}),
    ("POST", f"{_W}/ping"): Example(),
    ("GET", f"{_W}/deliveries"): Example({"deliveries": [_DELIVERY], "next_page_token": ""}),
    ("POST", f"{_W}/deliveries/{{delivery_id}}/redeliver"): Example({**_DELIVERY, "status": "pending"}),
    ("POST", f"{API}/uploads"): Example(_UPLOAD, {"digest": _DIGEST, "parts": 12}),
    ("GET", _U): Example(_UPLOAD),
    ("PUT", f"{_U}/parts/{{number}}"): Example({"number": 1, "size": 67_108_864}),
    ("POST", f"{_U}/finish"): Example({"digest": _DIGEST, "size": 805_306_368}),
    ("DELETE", _U): Example(),
    ("PUT", f"{_V}/hold"): Example(None, _KEEP),
    ("POST", f"{_V}/hold/lift"): Example(None, {"reason": "Case 2026-118 is decided"}),
    ("PUT", f"{API}/blobs/{{digest}}/hold"): Example(None, _KEEP),
    ("POST", f"{API}/blobs/{{digest}}/hold/lift"): Example(None, {"reason": "Case 2026-118 is decided"}),
    ("GET", f"{API}/holds"): Example({"holds": [_HOLD], "next_page_token": ""}),
}


def with_examples(routers: Sequence[APIRouter]) -> list[APIRouter]:
    """Put the examples onto the routes, into what OpenAPI shows beside the schemas."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                for method in route.methods or ():
                    _show(route, EXAMPLES.get((method, route.path), Example()))
    return list(routers)


def _show(route: APIRoute, example: Example) -> None:
    extra: dict[str, Any] = dict(route.openapi_extra or {})
    if example.request is not None:
        extra["requestBody"] = {"content": {"application/json": {"example": example.request}}}
    if example.answer is not None:
        status = str(route.status_code or 200)
        extra["responses"] = {status: {"content": {"application/json": {"example": example.answer}}}}
    route.openapi_extra = extra or None
