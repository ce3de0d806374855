"""Monitor: what its API takes and gives, and a typed client."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from clave_contracts.client import ServiceClient
from clave_contracts.schema import Answer, Count, Request, Whole

API = "/api/monitor/v1"


class FeedbackItem(Request):
    """What really happened after a prediction.

    Attributes:
        row: Row within the prediction's request, 0 first.
        outcome: Class (0 or 1) or value.
        attributes: Protected attributes of the case, for fairness.
    """

    prediction_id: str
    row: int = Field(default=0, ge=0, le=2**31 - 1)
    outcome: float
    occurred_at: datetime | None = None
    attributes: dict[str, str | Whole | float | bool] = Field(default_factory=dict)


class FeedbackRequest(Request):
    """Outcomes, at most 10,000 in one call."""

    items: list[FeedbackItem] = Field(min_length=1, max_length=10_000)


class FeedbackResult(Answer):
    """What became of each outcome.

    Attributes:
        joined: Met their prediction.
        pending: Kept until their prediction arrives.
        duplicates: Were known already and changed nothing.
        refused: Index, and why, of those that were not taken.
    """

    joined: int = 0
    pending: int = 0
    duplicates: int = 0
    refused: list[dict[str, Any]] = Field(default_factory=list)


class FeatureDrift(Answer):
    """How one feature (or the score) moved in the last window.

    Attributes:
        effect: Kolmogorov-Smirnov distance or total variation, 0 to 1.
        effect_low: Lower confidence bound of it over the best horizon.
        e_value: Evidence of the last window; above 1 speaks for a change.
        drifted: Named after the alarm (Benjamini-Hochberg).
    """

    feature: str
    kind: Literal["numeric", "categorical", "score"]
    effect: float
    effect_low: float
    p_value: float
    e_value: float
    psi: float
    drifted: bool
    missing_share: float = 0.0
    reference_missing_share: float = 0.0


class PerformanceReport(Answer):
    """How well the version does, as estimated without labels and as realised with them."""

    estimated: dict[str, float] = Field(default_factory=dict)
    estimated_band: dict[str, list[float]] = Field(default_factory=dict)
    realised: dict[str, float] = Field(default_factory=dict)
    reference: dict[str, float] = Field(default_factory=dict)
    labels: int = 0
    label_coverage: float = 0.0
    label_delay_s_p50: float | None = None
    harm_evidence_log10: float = 0.0
    harmed: bool = False


class Report(Answer):
    """The state of one endpoint's live version.

    Attributes:
        state: ``ok``, ``watch`` (evidence without effect), ``drift`` (gated), ``harm`` (realised loss), or ``no_data``.
    """

    endpoint: str
    model: str
    model_version: int
    at: datetime
    state: Literal["no_data", "ok", "watch", "drift", "harm"]
    windows: int
    window_rows: int
    rows: int
    drift_evidence_log10: float = 0.0
    drift_gated: bool = False
    features: list[FeatureDrift] = Field(default_factory=list)
    data_quality: list[dict[str, Any]] = Field(default_factory=list)
    performance: PerformanceReport = Field(default_factory=PerformanceReport)
    fairness: dict[str, Any] = Field(default_factory=dict)


class Decision(Answer):
    """The monitor's decision whether to retrain, with its evidence."""

    id: str
    endpoint: str
    model: str
    model_version: int
    at: datetime
    decision: Literal["retrain", "wait", "refuse"]
    reason: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    run_id: str | None = None


class RetrainingPolicy(Request):
    """When an endpoint's model is retrained by itself.

    Attributes:
        window_rows: Rows per window.
        window_s_max: A window is closed after this many seconds even when it is not full.
        false_alarm_windows: Target average run length between false alarms, in windows.
        effect_min: Smallest distance (0 to 1) that counts as drift of consequence.
        loss_tolerance: How much the mean loss (0/1 error) may rise above the reference before it counts as harm.
        labels_min: Fresh labels needed before a retraining makes sense.
        cool_down_s: Seconds after a retraining ended before the next.
        runs_per_day_max: Budget.
        business_hours: ``{"days": [0..6], "from": "08:00", "to": "18:00", "zone": "Europe/Zurich"}`` or None.
        approval: ``automatic``, or ``human``: the decision waits for a person.
    """

    enabled: bool = True
    pipeline: str | None = None
    window_rows: int = Field(default=500, ge=20, le=1_000_000)
    window_s_max: float = Field(default=86_400.0, gt=0)
    false_alarm_windows: float = Field(default=1000.0, ge=10)
    effect_min: float = Field(default=0.05, ge=0, le=1)
    loss_tolerance: float = Field(default=0.03, ge=0, le=1)
    harm_false_alarm_labels: float = Field(default=100_000.0, ge=100)
    estimated_drop_max: float = Field(default=0.03, ge=0, le=1)
    labels_min: Count = Field(default=200, ge=1)
    cool_down_s: float = Field(default=3600.0, ge=0)
    runs_per_day_max: Count = 4
    business_hours: dict[str, Any] | None = None
    approval: Literal["automatic", "human"] = "automatic"


class ArmFigures(Answer):
    """What one arm did in the analysed time."""

    version: int
    rows: int
    errors: int
    labels: int = 0
    loss_mean: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p99: float | None = None
    score_mean: float | None = None


class Analysis(Answer):
    """The comparison by which a rollout goes on or back.

    Attributes:
        verdict: ``fail`` = harm is shown; ``pass`` = nothing speaks against it; ``inconclusive`` = too few rows.
    """

    endpoint: str
    since: datetime
    champion: ArmFigures | None = None
    challenger: ArmFigures
    verdict: Literal["pass", "fail", "inconclusive"]
    reasons: list[str]
    checks: list[dict[str, Any]] = Field(default_factory=list)


class LabelledRow(Answer):
    """A prediction that has met its outcome."""

    prediction_id: str
    row: int
    predicted_at: datetime
    labelled_at: datetime
    entities: dict[str, Any] | None = None
    model_version: int
    score: float | None = None
    outcome: float
    attributes: dict[str, Any] = Field(default_factory=dict)


class LabelledPage(Answer):
    """A page of labelled predictions, oldest label first."""

    rows: list[LabelledRow]
    next_page_token: str = ""


class Alert(Answer):
    """Something a person should know."""

    id: str
    endpoint: str
    name: str
    severity: Literal["page", "ticket", "log"]
    state: Literal["open", "acknowledged", "snoozed", "resolved"]
    summary: str
    remedy: str = ""
    count: int = 1
    raised_at: datetime
    last_at: datetime
    snoozed_until: datetime | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)


class AlertPage(Answer):
    """A page of alerts."""

    alerts: list[Alert]
    next_page_token: str = ""


class DecisionPage(Answer):
    """A page of decisions, newest first."""

    decisions: list[Decision]
    next_page_token: str = ""


class MonitorClient(ServiceClient):
    """Calls the monitor."""

    async def send_feedback(self, request: FeedbackRequest) -> FeedbackResult:
        """Tell outcomes."""
        return await self.post(FeedbackResult, f"{API}/feedback", request)

    async def report(self, endpoint: str) -> Report:
        """Read the state of an endpoint's live version."""
        return await self.get(Report, f"{API}/endpoints/{endpoint}/report")

    async def analysis(self, *, endpoint: str, challenger: int, champion: int | None, since: datetime) -> Analysis:
        """Compare two arms since a time."""
        return await self.get(
            Analysis,
            f"{API}/analysis",
            endpoint=endpoint,
            challenger=challenger,
            champion=champion,
            since=since.isoformat(),
        )

    async def labelled(
        self,
        endpoint: str,
        *,
        after: datetime | None = None,
        page_token: str | None = None,
        page_size: int = 1000,
    ) -> LabelledPage:
        """Page through labelled predictions."""
        return await self.get(
            LabelledPage,
            f"{API}/endpoints/{endpoint}/labelled",
            after=after.isoformat() if after else None,
            page_token=page_token,
            page_size=page_size,
        )

    async def decisions(self, endpoint: str) -> DecisionPage:
        """List decisions, newest first."""
        return await self.get(DecisionPage, f"{API}/endpoints/{endpoint}/decisions")

    async def put_policy(self, endpoint: str, policy: RetrainingPolicy) -> RetrainingPolicy:
        """Set when an endpoint's model is retrained."""
        response = await self.send("PUT", f"{API}/endpoints/{endpoint}/policy", body=policy)
        return RetrainingPolicy.model_validate_json(response.content)
