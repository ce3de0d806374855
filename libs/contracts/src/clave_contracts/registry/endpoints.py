"""Endpoints, rollouts, desired and observed state: what the registry takes and gives."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from clave_contracts.registry.versions import (
    Approval,
    Artifact,
    DatasetRef,
    GateVerdict,
    Namespace,
    Signature,
    VersionStatus,
)
from clave_contracts.schema import Answer, Count, Name, Number, Request

RolloutState = Literal["pending", "shadow", "canary", "paused", "promoted", "rolled_back", "aborted"]
Arm = Literal["live", "canary", "shadow"]


class CanaryStep(Request):
    """A share of traffic and how long, at least, it is kept.

    Attributes:
        weight: Share of requests that the new version answers, above 0 and at most 1.
        bake_s: Seconds that the step lasts at least.
        rows_min: Rows that the new version must have answered in the step.
    """

    weight: float = Field(gt=0, le=1)
    bake_s: float = Field(default=60.0, ge=0)
    rows_min: Count = 100


class AnalysisThresholds(Request):
    """Limits on the challenger, beside the monitor's own tests; absent = none.

    Attributes:
        rows_min: Rows of the challenger before which nothing is judged by them.
        error_rate_max: Share of its requests that failed.
        latency_ms_p99_max: Milliseconds.
        latency_ratio_max: Its p99 latency over the champion's.
        loss_increase_max: Its mean loss less the champion's.
        score_shift_max: Its mean score less the champion's, either way.
    """

    rows_min: Count = Field(default=100, ge=1)
    error_rate_max: float | None = Field(default=None, ge=0, le=1)
    latency_ms_p99_max: float | None = Field(default=None, gt=0)
    latency_ratio_max: float | None = Field(default=None, gt=0)
    loss_increase_max: float | None = Field(default=None, ge=0)
    score_shift_max: float | None = Field(default=None, ge=0, le=1)


class RolloutPlan(Request):
    """How a version gets traffic.

    Attributes:
        thresholds: Limits that roll back at once when the challenger is over one.
        shadow_s: Seconds of copied traffic before the first canary step; 0 = none.
        step_s_max: Seconds after which a step that cannot be judged rolls back.
    """

    steps: list[CanaryStep] = Field(default_factory=lambda: [CanaryStep(weight=0.1), CanaryStep(weight=0.5)])
    shadow_s: float = Field(default=0.0, ge=0)
    step_s_max: float = Field(default=3600.0, gt=0)
    thresholds: AnalysisThresholds | None = None


class EndpointCreate(Request):
    """A named place where applications ask for predictions."""

    name: Name
    model: Name
    namespace: Namespace = "Production"
    feature_service: str | None = None
    version: Number | None = None
    description: str = Field(default="", max_length=5_000)


class Route(Answer):
    """A version's share of an endpoint's traffic."""

    version: int
    arm: Arm
    weight: float


class Endpoint(Answer):
    """An endpoint: desired routes, and what the inference processes report."""

    name: str
    model: str
    namespace: Namespace
    tenant: str = "default"
    feature_service: str | None = None
    live_version: int | None = None
    previous_version: int | None = None
    routes: list[Route] = Field(default_factory=list)
    rollout_id: str | None = None
    observed: list[dict[str, Any]] = Field(default_factory=list)
    in_sync: bool = False
    etag: str = ""
    created_at: datetime
    description: str = ""


class RolloutCreate(Request):
    """A rollout to start."""

    version: Number
    plan: RolloutPlan = Field(default_factory=RolloutPlan)
    reason: str = Field(default="", max_length=1_000)


class RolloutEvent(Answer):
    """One thing that happened to a rollout."""

    at: datetime
    state: RolloutState
    step: int | None = None
    weight: float = 0.0
    detail: str
    by: str
    analysis: dict[str, Any] | None = None


class Rollout(Answer):
    """A rollout and its history."""

    id: str
    endpoint: str
    model: str
    version: int
    from_version: int | None = None
    state: RolloutState
    step: int | None = None
    weight: float = 0.0
    plan: RolloutPlan
    reason: str = ""
    outcome: str = ""
    events: list[RolloutEvent] = Field(default_factory=list)
    created_at: datetime
    created_by: str
    finished_at: datetime | None = None


class DesiredVersion(Answer):
    """What inference needs to load and govern a version."""

    model: str
    version: int
    manifest_digest: str
    artifacts: list[Artifact]
    signature: Signature
    status: VersionStatus
    tenant: str
    contributors: list[str] = Field(default_factory=list)
    signature_verified: bool = False
    rate_limit_per_minute: float = 1000.0
    allowed_namespaces: list[str] = Field(default_factory=list)


class DesiredEndpoint(Answer):
    """What inference needs to route an endpoint's requests."""

    name: str
    model: str
    namespace: Namespace
    tenant: str
    feature_service: str | None = None
    routes: list[Route]
    keep: list[int] = Field(default_factory=list, description="Versions to keep loaded for an instant rollback.")


class DesiredState(Answer):
    """Everything that inference should be doing; `revision` changes with it."""

    revision: str
    endpoints: list[DesiredEndpoint]
    versions: list[DesiredVersion]


class ObservedVersion(Request):
    """What one inference process did with a version."""

    model: str
    version: Number
    state: Literal["loading", "ready", "failed", "draining"]
    detail: str = ""


class ObservedState(Request):
    """Report of one inference process."""

    revision: str | None = None
    versions: list[ObservedVersion]


class HistoryEntry(Answer):
    """Which version answered for an endpoint from a time on, why, approved by whom, and made from what."""

    endpoint: str
    version: int
    since: datetime
    until: datetime | None = None
    by: str
    reason: str
    approved_by: list[str] = Field(default_factory=list)
    datasets: list[DatasetRef] = Field(default_factory=list)
    model: str = ""
    manifest_digest: str = ""
    approvals: list[Approval] = Field(default_factory=list)
    rollout_id: str | None = None
    run_id: str | None = None
    code_version: str | None = None
    environment_digest: str | None = None
    gates: list[GateVerdict] = Field(default_factory=list)
