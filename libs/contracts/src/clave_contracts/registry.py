"""Registry: what its API takes and gives, and a typed client."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from clave_contracts.client import ServiceClient
from clave_contracts.problems import ServiceProblem, checked
from clave_contracts.schema import Answer, Digest, Name, Request

API = "/api/registry/v1"
Namespace = Literal["Development", "Staging", "Production"]
VersionStatus = Literal["draft", "submitted", "approved", "rejected", "archived"]
RolloutState = Literal["pending", "shadow", "canary", "paused", "promoted", "rolled_back", "aborted"]
Arm = Literal["live", "canary", "shadow"]


class Artifact(Request):
    """A file of a version: a relative path and the blob that holds its bytes."""

    path: str
    digest: Digest
    size: int = Field(ge=0)
    media_type: str = "application/octet-stream"


class TensorSpec(Request):
    """A model's input or output: its name, Open Inference Protocol datatype and shape (-1 = any)."""

    name: str
    datatype: str
    shape: list[int]


class Signature(Request):
    """What a model takes and gives.

    Attributes:
        columns: Names of the input's columns, in order.
        levels: Levels of categorical columns, in the order of their codes.
        positive_output: Output and column that hold the score, ``probabilities:1``.
        threshold: Score at or above which the predicted class is 1.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    columns: list[str] = Field(default_factory=list)
    levels: dict[str, list[str]] = Field(default_factory=dict)
    positive_output: str | None = None
    threshold: float = 0.5
    task: Literal["binary", "multiclass", "regression", "ranking"] = "binary"


class DatasetRef(Request):
    """A training set that a version was made from."""

    id: str
    name: str
    digest: Digest
    manifest_digest: str | None = None
    rows: int
    feature_service: str | None = None
    feature_views: dict[str, int] = Field(default_factory=dict)
    as_of: datetime | None = None
    columns: list[str] = Field(default_factory=list)
    consent_policy: str | None = None


class Lineage(Request):
    """Where a version comes from."""

    run_id: str | None = None
    pipeline: str | None = None
    trigger: str | None = None
    datasets: list[DatasetRef] = Field(default_factory=list)
    parent_version: int | None = None
    code_version: str | None = None
    environment_digest: str | None = None
    retraining_decision_id: str | None = None


class GateVerdict(Request):
    """One gate's judgement with its figures.

    Attributes:
        verdict: ``review`` = neither passed nor failed; a human decides.
        estimate, low, high: The figure and its 95 % interval where there is one.
        n: Rows behind it.
    """

    gate: str
    verdict: Literal["passed", "failed", "review", "not_applicable"]
    detail: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    n: int | None = None
    p_value: float | None = None


class Evaluation(Request):
    """A version's evaluation: metrics by split, gates, fairness, and the comparison with the champion.

    Attributes:
        metrics: Split (``train``, ``test``...) to metric to value.
        fairness: Attribute to figures (``parity_ratio``, interval, group sizes...).
        champion: ``{"version", "metrics", ...}`` on the same rows, or None for a first version.
    """

    metrics: dict[str, dict[str, float]]
    gates: list[GateVerdict]
    passed: bool
    fairness: dict[str, Any] = Field(default_factory=dict)
    slices: list[dict[str, Any]] = Field(default_factory=list)
    champion: dict[str, Any] | None = None
    importance: dict[str, float] = Field(default_factory=dict)
    latency_us_p50: float | None = None
    rows: int | None = None


class CardInput(Request):
    """What a card needs beyond the facts the registry has: texts that people or the pipeline's definition give."""

    display_name: str | None = None
    overview: str = ""
    algorithm: str = ""
    intended_use: str = ""
    limitations: list[str] = Field(default_factory=list)
    usage_notes: list[str] = Field(default_factory=list)
    ethical_considerations: str = ""
    owners: list[str] = Field(default_factory=list)
    allowed_namespaces: list[Namespace] = Field(default=["Development", "Staging", "Production"])
    rate_limit_per_minute: float = Field(default=1000.0, gt=0, le=1_000_000)
    retrain_when: str = ""


class ModelCreate(Request):
    """A registered model to create."""

    name: Name
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    risk_class: Literal["minimal", "limited", "high"] = "minimal"


class Model(Answer):
    """A registered model."""

    name: str
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    tenant: str = "default"
    risk_class: str = "minimal"
    latest_version: int | None = None
    aliases: dict[str, int] = Field(default_factory=dict)
    created_at: datetime
    created_by: str


class VersionCreate(Request):
    """A version to register: artifacts that were uploaded before, and everything known about them."""

    artifacts: list[Artifact]
    signature: Signature
    params: dict[str, Any] = Field(default_factory=dict)
    lineage: Lineage = Field(default_factory=Lineage)
    evaluation: Evaluation | None = None
    card: CardInput = Field(default_factory=CardInput)
    tags: dict[str, str] = Field(default_factory=dict)
    description: str = ""
    contributors: list[str] = Field(default_factory=list)


class Approval(Answer):
    """One decision about a version."""

    by: str
    decision: Literal["approve", "reject"]
    at: datetime
    comment: str = ""


class Version(Answer):
    """A model version; its bytes never change."""

    model: str
    version: int
    status: VersionStatus
    manifest_digest: str
    artifacts: list[Artifact]
    signature: Signature
    params: dict[str, Any] = Field(default_factory=dict)
    lineage: Lineage = Field(default_factory=Lineage)
    evaluation: Evaluation | None = None
    card: CardInput = Field(default_factory=CardInput)
    tags: dict[str, str] = Field(default_factory=dict)
    description: str = ""
    aliases: list[str] = Field(default_factory=list)
    contributors: list[str] = Field(default_factory=list)
    approvals: list[Approval] = Field(default_factory=list)
    approvals_needed: int = 0
    approved_by: str | None = None
    status_reason: str = ""
    tenant: str = "default"
    created_at: datetime
    created_by: str


class ApprovalRequest(Request):
    """A person's decision about a submitted version."""

    comment: str = ""
    namespace: Namespace = "Production"


class SubmitRequest(Request):
    """Ask for a version's approval for a namespace."""

    namespace: Namespace = "Production"


class CanaryStep(Request):
    """A share of traffic and how long, at least, it is kept.

    Attributes:
        weight: Share of requests that the new version answers, above 0 and at most 1.
        bake_s: Seconds that the step lasts at least.
        rows_min: Rows that the new version must have answered in the step.
    """

    weight: float = Field(gt=0, le=1)
    bake_s: float = Field(default=60.0, ge=0)
    rows_min: int = Field(default=100, ge=0)


class RolloutPlan(Request):
    """How a version gets traffic.

    Attributes:
        shadow_s: Seconds of copied traffic before the first canary step; 0 = none.
        step_s_max: Seconds after which a step that cannot be judged rolls back.
    """

    steps: list[CanaryStep] = Field(default_factory=lambda: [CanaryStep(weight=0.1), CanaryStep(weight=0.5)])
    shadow_s: float = Field(default=0.0, ge=0)
    step_s_max: float = Field(default=3600.0, gt=0)


class EndpointCreate(Request):
    """A named place where applications ask for predictions."""

    name: Name
    model: Name
    namespace: Namespace = "Production"
    feature_service: str | None = None
    version: int | None = None
    description: str = ""


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

    version: int
    plan: RolloutPlan = Field(default_factory=RolloutPlan)
    reason: str = ""


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
    version: int
    state: Literal["loading", "ready", "failed", "draining"]
    detail: str = ""


class ObservedState(Request):
    """Report of one inference process."""

    revision: str | None = None
    versions: list[ObservedVersion]


class HistoryEntry(Answer):
    """Which version answered for an endpoint from a time on, and why."""

    endpoint: str
    version: int
    since: datetime
    until: datetime | None = None
    by: str
    reason: str
    approved_by: list[str] = Field(default_factory=list)
    datasets: list[DatasetRef] = Field(default_factory=list)


class Page(Answer):
    """A page of a listing."""

    next_page_token: str = ""


class ModelPage(Page):
    """A page of models."""

    models: list[Model]


class VersionPage(Page):
    """A page of versions."""

    versions: list[Version]


class RegistryClient(ServiceClient):
    """Calls the registry."""

    async def has_blob(self, digest: str) -> bool:
        """Ask whether a blob is stored already."""
        try:
            await self.send("HEAD", f"{API}/blobs/{digest}")
        except ServiceProblem as problem:
            if problem.status == 404:  # noqa: PLR2004 - HTTP's own number
                return False
            raise
        return True

    async def put_blob(self, digest: str, content: bytes | AsyncIterator[bytes]) -> None:
        """Store bytes under their sha256."""
        await self.send(
            "PUT",
            f"{API}/blobs/{digest}",
            content=content,
            headers={"content-type": "application/octet-stream"},
        )

    async def blob(self, digest: str) -> AsyncIterator[bytes]:
        """Stream a blob."""
        async with self.http.stream("GET", f"{API}/blobs/{digest}") as response:
            if response.is_error:
                await response.aread()
                checked(response)
            async for chunk in response.aiter_bytes():
                yield chunk

    async def create_model(self, request: ModelCreate, *, on_behalf_of: str | None = None) -> Model:
        """Create a registered model; ServiceProblem with code ``already_exists`` when the name is taken."""
        return await self.post(Model, f"{API}/models", request, on_behalf_of=on_behalf_of)

    async def create_version(
        self, model: str, request: VersionCreate, *, idempotency_key: str, on_behalf_of: str | None = None
    ) -> Version:
        """Register a version."""
        return await self.post(
            Version,
            f"{API}/models/{model}/versions",
            request,
            idempotency_key=idempotency_key,
            on_behalf_of=on_behalf_of,
        )

    async def version(self, model: str, version: int) -> Version:
        """Describe a version."""
        return await self.get(Version, f"{API}/models/{model}/versions/{version}")

    async def submit(
        self, model: str, version: int, request: SubmitRequest, *, on_behalf_of: str | None = None
    ) -> Version:
        """Ask for approval; it may come at once when policy needs no human."""
        return await self.post(
            Version, f"{API}/models/{model}/versions/{version}/submit", request, on_behalf_of=on_behalf_of
        )

    async def endpoint(self, name: str) -> Endpoint:
        """Describe an endpoint."""
        return await self.get(Endpoint, f"{API}/endpoints/{name}")

    async def create_endpoint(self, request: EndpointCreate, *, on_behalf_of: str | None = None) -> Endpoint:
        """Create an endpoint; a version given goes live at once."""
        return await self.post(Endpoint, f"{API}/endpoints", request, on_behalf_of=on_behalf_of)

    async def create_rollout(
        self, endpoint: str, request: RolloutCreate, *, idempotency_key: str, on_behalf_of: str | None = None
    ) -> Rollout:
        """Start moving a version towards live traffic."""
        return await self.post(
            Rollout,
            f"{API}/endpoints/{endpoint}/rollouts",
            request,
            idempotency_key=idempotency_key,
            on_behalf_of=on_behalf_of,
        )

    async def rollout(self, rollout_id: str) -> Rollout:
        """Describe a rollout."""
        return await self.get(Rollout, f"{API}/rollouts/{rollout_id}")

    async def desired(self, *, etag: str | None = None) -> DesiredState | None:
        """Read the desired state; None when it is still the one of `etag`."""
        headers = {"if-none-match": etag} if etag else {}
        response = await self.send("GET", f"{API}/desired", headers=headers)
        if response.status_code == 304:  # noqa: PLR2004 - HTTP's own number
            return None
        return DesiredState.model_validate_json(response.content)

    async def report_observed(self, instance: str, state: ObservedState) -> None:
        """Tell what an inference process has loaded."""
        await self.send("PUT", f"{API}/observed/{instance}", body=state)
