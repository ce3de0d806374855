"""Rows as typed records, one class per table, with the table's own column names."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import RowMapping

T = TypeVar("T")


def record(kind: type[T], row: RowMapping | None) -> T | None:
    """Build a record from a row that was selected with all columns of its table; None stays None."""
    return None if row is None else kind(**row)


def records(kind: type[T], rows: Iterable[RowMapping]) -> list[T]:
    """Build records from rows."""
    return [kind(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A registered model."""

    id: str
    tenant: str
    name: str
    description: str
    tags: dict[str, str]
    risk_class: str
    next_version: int
    revision: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A model version without its artifacts and approvals; the dictionaries are contracts as they came in."""

    model_id: str
    version: int
    status: str
    status_reason: str
    manifest_digest: str
    media_types: dict[str, str]
    signature: dict[str, Any]
    params: dict[str, Any]
    lineage: dict[str, Any]
    evaluation: dict[str, Any] | None
    evaluated_by: str | None
    card: dict[str, Any]
    tags: dict[str, str]
    description: str
    contributors: list[str]
    submitted_for: str | None
    approvals_needed: int
    approved_by: str | None
    revision: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    source: str
    artifact_root: str | None
    run_id: str
    run_link: str
    logged_model_id: str | None
    legacy_stage: str
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class ShownVersion:
    """The columns of a version that MLflow's clients are shown; a list of them reads no others."""

    model_id: str
    version: int
    tags: dict[str, str]
    description: str
    created_by: str
    created_at: datetime
    updated_at: datetime
    source: str
    run_id: str
    run_link: str
    logged_model_id: str | None
    legacy_stage: str


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """One person's word on a version."""

    seq: int
    model_id: str
    version: int
    by: str
    decision: str
    at: datetime
    comment: str
    evidence_digest: str


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One artifact of a manifest."""

    manifest_digest: str
    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class AliasRow:
    """Which version an alias names."""

    model_id: str
    alias: str
    version: int
    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class AliasEventRow:
    """One move of an alias; version None = removed."""

    seq: int
    model_id: str
    alias: str
    version: int | None
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """An endpoint's desired state."""

    name: str
    tenant: str
    model_id: str
    model: str
    namespace: str
    feature_service: str | None
    live_version: int | None
    previous_version: int | None
    rollout_id: str | None
    description: str
    revision: int
    created_by: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AssignmentRow:
    """Which version answered for an endpoint in a span of time."""

    seq: int
    endpoint: str
    model_id: str
    version: int
    since: datetime
    until: datetime | None
    by: str
    reason: str
    rollout_id: str | None


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A rollout's state and plan."""

    id: str
    endpoint: str
    model_id: str
    model: str
    version: int
    from_version: int | None
    phase: str
    step: int
    since: datetime
    wake_at: datetime | None
    paused_at: datetime | None
    plan: dict[str, Any]
    reason: str
    outcome: str
    created_by: str
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RolloutEventRow:
    """One thing that happened to a rollout."""

    seq: int
    rollout_id: str
    at: datetime
    state: str
    step: int | None
    weight: float
    detail: str
    by: str
    analysis: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ObservedRow:
    """What one inference process last reported."""

    instance: str
    at: datetime
    revision: str | None
    versions: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """Where events go."""

    id: str
    tenant: str
    url: str
    description: str
    events: list[str]
    model: str | None
    format: str
    enabled: bool
    disabled_reason: str
    secret_generation: int
    rotated_at: datetime | None
    revision: int
    created_by: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One event on its way to one webhook."""

    seq: int
    id: str
    webhook_id: str
    event_id: str
    event: str
    body: bytes
    status: str
    attempts: list[dict[str, Any]]
    next_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SignatureRow:
    """A signature over a version's files, as its signer made it."""

    model_id: str
    version: int
    key_id: str
    bundle: bytes
    at: datetime
    by: str
