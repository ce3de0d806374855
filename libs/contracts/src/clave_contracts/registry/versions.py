"""Models, versions, approvals and cards: what the registry takes and gives."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from clave_contracts.schema import Answer, Count, Digest, Name, Number, Request, Whole

API = "/api/registry/v1"
Namespace = Literal["Development", "Staging", "Production"]
VersionStatus = Literal["draft", "submitted", "approved", "rejected", "archived"]


class Artifact(Request):
    """A file of a version: a relative path and the blob that holds its bytes."""

    path: str
    digest: Digest
    size: Count
    media_type: str = "application/octet-stream"


class TensorSpec(Request):
    """A model's input or output: its name, Open Inference Protocol datatype and shape (-1 = any)."""

    name: str
    datatype: str
    shape: list[Whole]


class Signature(Request):
    """What a model takes and gives.

    Attributes:
        inputs, outputs: The graph's; where a registration leaves both out, they are read from ``model.onnx``.
        columns: Names of the input's columns, in order.
        levels: Levels of categorical columns, in the order of their codes.
        positive_output: Output and column that hold the score, ``probabilities:1``.
        threshold: Score at or above which the predicted class is 1.
    """

    inputs: list[TensorSpec] = Field(default_factory=list)
    outputs: list[TensorSpec] = Field(default_factory=list)
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
    rows: Count
    feature_service: str | None = None
    feature_views: dict[str, Number] = Field(default_factory=dict)
    as_of: datetime | None = None
    columns: list[str] = Field(default_factory=list)
    consent_policy: str | None = None


class Lineage(Request):
    """Where a version comes from."""

    run_id: str | None = None
    pipeline: str | None = None
    trigger: str | None = None
    datasets: list[DatasetRef] = Field(default_factory=list)
    parent_version: Number | None = None
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
    n: Count | None = None
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
    rows: Count | None = None


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
    description: str = Field(default="", max_length=5_000)
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
    signature: Signature = Field(default_factory=Signature)
    params: dict[str, Any] = Field(default_factory=dict)
    lineage: Lineage = Field(default_factory=Lineage)
    evaluation: Evaluation | None = None
    card: CardInput = Field(default_factory=CardInput)
    tags: dict[str, str] = Field(default_factory=dict)
    description: str = Field(default="", max_length=5_000)
    contributors: list[str] = Field(default_factory=list, max_length=100)


class Approval(Answer):
    """One decision about a version."""

    by: str
    decision: Literal["approve", "reject"]
    at: datetime
    comment: str = ""


class Version(Answer):
    """A model version; its bytes never change.

    Attributes:
        unsafe_paths: Files whose kind can run code when opened; a version with any is kept and never deployed.
        evaluated_by: Principal whose credential brought the evaluation: the trainer's service, a CI account, a person.
    """

    model: str
    version: int
    status: VersionStatus
    manifest_digest: str
    artifacts: list[Artifact]
    unsafe_paths: list[str] = Field(default_factory=list)
    signature: Signature
    params: dict[str, Any] = Field(default_factory=dict)
    lineage: Lineage = Field(default_factory=Lineage)
    evaluation: Evaluation | None = None
    evaluated_by: str | None = None
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


class VersionSignature(Answer):
    """A signature over a version's files.

    Attributes:
        key_id: sha256 of the signer's public key as PEM.
        verified: Whether it holds now, by a key that is trusted now.
        bundle: The OMS bundle as its signer made it.
    """

    key_id: str
    verified: bool
    added_at: datetime
    added_by: str
    bundle: str


class VersionSignatures(Answer):
    """The signatures of a version; `verified` when at least one holds now."""

    verified: bool
    signatures: list[VersionSignature]


class ApprovalRequest(Request):
    """A person's decision about a submitted version."""

    comment: str = Field(default="", max_length=5_000)
    namespace: Namespace = "Production"


class SubmitRequest(Request):
    """Ask for a version's approval for a namespace."""

    namespace: Namespace = "Production"


class Page(Answer):
    """A page of a listing."""

    next_page_token: str = ""


class ModelPage(Page):
    """A page of models."""

    models: list[Model]


class VersionPage(Page):
    """A page of versions."""

    versions: list[Version]
