"""Trainer: what its API takes and gives, and a typed client."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from clave_contracts.client import ServiceClient
from clave_contracts.registry import CardInput, GateVerdict, Namespace, RolloutPlan
from clave_contracts.schema import Answer, Count, Name, Request

API = "/api/trainer/v1"
RunStatus = Literal["queued", "running", "waiting", "succeeded", "failed", "refused", "cancelled"]
StepState = Literal["pending", "ready", "running", "waiting", "succeeded", "failed", "refused", "cancelled", "skipped"]


class GatePolicy(Request):
    """What a candidate must show.

    Attributes:
        primary_metric: Compared with the champion by a paired test, one-sided at `alpha`.
        margin_min: Improvement that the primary metric must show at least, in its own unit.
        auc_min: Smallest area under the ROC curve on the test split.
        auc_loss_max: Largest loss of AUC against the champion (non-inferiority).
        parity_ratio_min: Smallest statistical parity ratio; judged on its interval.
    """

    primary_metric: Literal["log_loss", "auc", "brier"] = "log_loss"
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    margin_min: float = Field(default=0.0, ge=0)
    auc_min: float = Field(default=0.6, ge=0, le=1)
    auc_loss_max: float = Field(default=0.02, ge=0, le=1)
    parity_ratio_min: float = Field(default=0.8, gt=0, le=1)
    parity_blocks: bool = False
    latency_us_p50_max: float = Field(default=5000.0, gt=0)
    model_bytes_max: Count = Field(default=50_000_000, ge=1)
    rows_min: Count = Field(default=100, ge=1)
    true_positive_rate_gap_max: dict[str, float] = Field(
        default_factory=dict,
        description="Attributes judged by the gap of true positive rates instead of the parity ratio, with the limit.",
    )
    group_rows_min: Count = Field(default=50, ge=1)
    calibration_error_max: float = Field(default=0.2, gt=0, le=1)
    robustness_auc_loss_max: float = Field(default=0.05, gt=0, le=1)


class PipelineSpec(Request):
    """A pipeline: from features to a rollout."""

    name: Name
    model: Name
    endpoint: Name
    feature_service: Name
    label_view: Name
    label: Name
    entity_key: Name
    protected: list[str] = Field(default_factory=list, description="``view:feature`` of protected attributes.")
    namespace: Namespace = "Production"
    params: dict[str, Any] = Field(default_factory=dict, description="XGBoost parameters and `rounds`.")
    gates: GatePolicy = Field(default_factory=GatePolicy)
    card: CardInput = Field(default_factory=CardInput)
    rollout: RolloutPlan = Field(default_factory=RolloutPlan)
    split: dict[str, float] = Field(default_factory=lambda: {"train": 0.6, "validation": 0.2, "test": 0.2})
    seed: int = Field(default=7, ge=0, le=2**31 - 1)
    description: str = ""


class Pipeline(Answer):
    """A stored pipeline."""

    name: str
    version: int
    spec: PipelineSpec
    updated_at: datetime
    updated_by: str


class RunCreate(Request):
    """A run to start.

    Attributes:
        params: Override the pipeline's training parameters for this run.
        evaluation_after: Start of the evaluation window; None = all test rows.
        roll_out: False stops after registration and approval.
    """

    reason: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    evaluation_after: datetime | None = None
    roll_out: bool = True
    retraining_decision_id: str | None = None


class Step(Answer):
    """One step of a run."""

    name: str
    state: StepState
    attempt: int = 0
    progress: float = Field(default=0.0, description="0 to 1")
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    output: dict[str, Any] = Field(default_factory=dict)


class Run(Answer):
    """A pipeline run with its steps."""

    id: str
    pipeline: str
    status: RunStatus
    trigger: Literal["manual", "retraining_requested", "schedule", "webhook"] = "manual"
    reason: str = ""
    requested_by: str
    steps: list[Step] = Field(default_factory=list)
    gates: list[GateVerdict] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)
    model: str | None = None
    model_version: int | None = None
    rollout_id: str | None = None
    created_at: datetime
    finished_at: datetime | None = None
    retraining_decision_id: str | None = None


class RunPage(Answer):
    """A page of runs, newest first."""

    runs: list[Run]
    next_page_token: str = ""


class Attempt(Answer):
    """One start of a step.

    Attributes:
        outcome: ``succeeded``, ``waiting``, ``refused``, ``failed``, ``lost`` (its worker died), or None while it runs.
    """

    step: str
    number: int
    worker: str
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str | None = None
    error: str | None = None


class AttemptList(Answer):
    """The journal of a run's attempts, oldest first."""

    attempts: list[Attempt]


class PipelineList(Answer):
    """Every pipeline, by name."""

    pipelines: list[Pipeline]


class BusinessHours(Request):
    """Days (Monday = 0) and times of day, ``08:00``, within which a scheduled run may start."""

    days: list[Annotated[int, Field(ge=0, le=6)]] = Field(default_factory=lambda: [0, 1, 2, 3, 4])
    start: str = "08:00"
    end: str = "18:00"


class ScheduleSpec(Request):
    """When a pipeline runs by itself.

    Attributes:
        cron: Five fields in the wall clock of `zone`; or `interval_s`.
        misfire: ``coalesce`` starts one run for all missed times, ``skip`` none.
        active_runs_max: No run starts while the pipeline has this many unfinished ones.
    """

    pipeline: Name
    cron: str | None = None
    interval_s: float | None = Field(default=None, gt=0)
    zone: str = "UTC"
    business_hours: BusinessHours | None = None
    misfire: Literal["coalesce", "skip"] = "coalesce"
    active_runs_max: int = Field(default=1, ge=1, le=20)
    params: dict[str, Any] = Field(default_factory=dict)
    reason: str = ""
    enabled: bool = True


class Schedule(Answer):
    """A stored schedule, when it is due next, and why its last due time started nothing (empty: it did)."""

    id: str
    spec: ScheduleSpec
    next_at: datetime | None = None
    last_skip: str = ""
    created_by: str
    updated_at: datetime


class ScheduleList(Answer):
    """Every schedule."""

    schedules: list[Schedule]


class TrainerClient(ServiceClient):
    """Calls the trainer."""

    async def put_pipeline(self, spec: PipelineSpec) -> Pipeline:
        """Create or update a pipeline."""
        response = await self.send("PUT", f"{API}/pipelines/{spec.name}", body=spec)
        return Pipeline.model_validate_json(response.content)

    async def start_run(self, pipeline: str, request: RunCreate, *, idempotency_key: str | None = None) -> Run:
        """Start a run."""
        return await self.post(Run, f"{API}/pipelines/{pipeline}/runs", request, idempotency_key=idempotency_key)

    async def run(self, run_id: str) -> Run:
        """Describe a run."""
        return await self.get(Run, f"{API}/runs/{run_id}")

    async def runs(self, *, pipeline: str | None = None, page_size: int | None = None) -> RunPage:
        """List runs, newest first."""
        return await self.get(RunPage, f"{API}/runs", pipeline=pipeline, page_size=page_size)

    async def cancel(self, run_id: str) -> Run:
        """Ask a run to stop."""
        return await self.post(Run, f"{API}/runs/{run_id}/cancel")

    async def retry(self, run_id: str) -> Run:
        """Try a failed or cancelled run again from its first unfinished step."""
        return await self.post(Run, f"{API}/runs/{run_id}/retry")

    async def attempts(self, run_id: str) -> AttemptList:
        """Read the journal of a run's attempts."""
        return await self.get(AttemptList, f"{API}/runs/{run_id}/attempts")

    async def create_schedule(self, spec: ScheduleSpec) -> Schedule:
        """Create a schedule."""
        return await self.post(Schedule, f"{API}/schedules", spec)
