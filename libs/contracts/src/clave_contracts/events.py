"""What services tell each other through streams: the envelope, every event type, the audit entry, predictions.

Events are facts in the past tense, CloudEvents 1.0 in shape, and only ever grow. Consumers are idempotent by ``id``.
"""

import os
import time
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EventType = Literal[
    "AccessChanged",
    "ModelVersionRegistered",
    "ModelVersionStatusChanged",
    "ModelAliasChanged",
    "DesiredStateChanged",
    "RolloutChanged",
    "FeaturesIngested",
    "TrainingSetCreated",
    "DriftDetected",
    "PerformanceDegraded",
    "RetrainingRequested",
    "RetrainingDeclined",
    "AlertRaised",
    "RunStarted",
    "RunFinished",
]
PREDICTION_STREAM = "clave.predictions"
AUDIT_STREAM = "clave.audit"
"""What the rows of audit entries say in an outbox; the stream itself is each service's own, see `audit_stream`."""
SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")


def event_stream(service: str) -> str:
    """Name the Redis stream of a service's events."""
    return f"clave.events.{service}"


def audit_stream(service: str) -> str:
    """Name the Redis stream of a service's audit entries, into which it alone may write."""
    return f"{AUDIT_STREAM}.{service}"


def decision_stream(service: str) -> str:
    """Name the Redis stream of a service's policy decisions, into which it alone may write."""
    return f"clave.decisions.{service}"


def _now() -> datetime:
    return datetime.now(UTC)


def _identifier(prefix: str) -> str:
    return f"{prefix}_{int(time.time() * 1000):012x}{os.urandom(10).hex()}"


class Event(BaseModel):
    """One fact.

    Attributes:
        source: Service that states it.
        subject: What it is about, a canonical path such as ``endpoints/churn``.
        data: Facts by name, JSON-able; the shape belongs to the type.
    """

    model_config = ConfigDict(frozen=True)

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(default_factory=lambda: _identifier("evt"))
    type: EventType
    source: str
    subject: str
    time: datetime = Field(default_factory=_now)
    tenant: str = "default"
    data: dict[str, Any] = Field(default_factory=dict)


class AuditEntry(BaseModel):
    """One governed change or read: who did what to which thing, and what came of it.

    Attributes:
        actor: Principal that asked, ``<type>:<name>``.
        on_behalf_of: Principal whose will it was, when a service acted for somebody.
        action: ``service:object.verb`` from the catalogue.
        resource: Canonical path.
        outcome: ``success`` or ``refused``.
        decision_id: The policy decision behind it.
        details: What changed; names, numbers and digests, never payloads or secrets.
    """

    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=lambda: _identifier("aud"))
    time: datetime = Field(default_factory=_now)
    service: str
    actor: str
    on_behalf_of: str | None = None
    tenant: str = "default"
    action: str
    resource: str
    outcome: Literal["success", "refused"] = "success"
    decision_id: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class RetrainingRequested(BaseModel):
    """Data of the event by which the monitor asks for a new model.

    Attributes:
        endpoint: Endpoint whose live version has degraded.
        pipeline: Pipeline to run.
        decision_id: The monitor's decision with its evidence.
        reason: One sentence for people.
        evidence: Figures behind it (e-values, bounds, metrics, window, features named).
        evaluation_after: Rows at or after this time form the evaluation window of champion and challenger.
    """

    endpoint: str
    pipeline: str
    model: str
    model_version: int
    decision_id: str
    reason: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    evaluation_after: datetime | None = None


class RunFinished(BaseModel):
    """Data of the event by which the trainer says how a run ended."""

    run_id: str
    pipeline: str
    endpoint: str | None = None
    status: Literal["succeeded", "failed", "refused", "cancelled"]
    model: str | None = None
    model_version: int | None = None
    requested_by: str
    retraining_decision_id: str | None = None
    reasons: list[str] = Field(default_factory=list)


class RunStarted(BaseModel):
    """Data of the event by which the trainer says that a run began."""

    run_id: str
    pipeline: str
    endpoint: str | None = None
    requested_by: str
    retraining_decision_id: str | None = None


class PredictionRecord(BaseModel):
    """One answered inference request, as inference logs it (one per request, all its rows).

    On the stream `clave.predictions` an entry has the fields ``id`` (of the batch) and ``body``: some of these, in
    one of the two forms of `prediction_batches`.

    Attributes:
        id: Prediction id; a row is named ``<id>:<row>``.
        features: Model inputs by column name in signature order; ``values`` has shape (rows, columns), null = missing.
        entities: Entity keys per row when the request named them, else None.
        score: P(positive) or the regression value per row, shape (rows,).
        label: Predicted class per row where there is one.
        arm: ``live``, ``canary`` or ``shadow`` (a shadow's answer went to nobody).
        error: Set instead of outputs when the model failed.
        trace_id: The caller's trace (W3C), where the request named one.
    """

    id: str
    at: datetime
    endpoint: str
    model: str
    model_version: int
    arm: Literal["live", "canary", "shadow", "pinned"]
    principal: str
    tenant: str = "default"
    protocol: Literal["rest", "grpc"]
    columns: list[str]
    values: list[list[float | None]]
    entities: dict[str, list[Any]] | None = None
    score: list[float | None] = Field(default_factory=list)
    label: list[int] | None = None
    latency_ms: float
    error: str | None = None
    trace_id: str | None = None
