"""The registry's tables. What they mean is said in `domain`; how they came to be, in `migrations`."""

from clave_common.database import service_metadata
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "registry"
metadata = service_metadata(SCHEMA)


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


models = Table(
    "models",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("tags", JSONB, nullable=False, server_default="{}"),
    Column("risk_class", Text, nullable=False, server_default="minimal"),
    Column("next_version", Integer, nullable=False, server_default="1"),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    _moment("deleted_at", nullable=True),
    Index("uq_models_tenant_name", "tenant", "name", unique=True, postgresql_where=text("deleted_at is null")),
    Index("ix_models_updated", "tenant", "updated_at", "id"),
    Index("ix_models_tags", "tags", postgresql_using="gin", postgresql_ops={"tags": "jsonb_path_ops"}),
)

versions = Table(
    "versions",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("status", Text, nullable=False),
    Column("status_reason", Text, nullable=False, server_default=""),
    Column("manifest_digest", Text, nullable=False),
    # Of files that are not application/octet-stream, by path. What another tenant calls the same bytes is its own.
    Column("media_types", JSONB, nullable=False, server_default="{}"),
    Column("signature", JSONB, nullable=False),
    Column("params", JSONB, nullable=False),
    Column("lineage", JSONB, nullable=False),
    Column("evaluation", JSONB, nullable=True),
    # Whose credential brought it; none for versions that were registered before this was kept.
    Column("evaluated_by", Text, nullable=True),
    Column("card", JSONB, nullable=False),
    Column("tags", JSONB, nullable=False),
    Column("description", Text, nullable=False),
    Column("contributors", JSONB, nullable=False),
    Column("submitted_for", Text, nullable=True),
    Column("approvals_needed", Integer, nullable=False, server_default="0"),
    Column("approved_by", Text, nullable=True),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    # What MLflow's clients know a version by; empty for versions of the own API.
    Column("source", Text, nullable=False, server_default=""),
    Column("artifact_root", Text, nullable=True),
    Column("run_id", Text, nullable=False, server_default=""),
    Column("run_link", Text, nullable=False, server_default=""),
    Column("logged_model_id", Text, nullable=True),
    Column("legacy_stage", Text, nullable=False, server_default="None"),
    _moment("deleted_at", nullable=True),
    ForeignKeyConstraint(["model_id"], ["models.id"]),
    Index("ix_versions_manifest", "manifest_digest"),
    Index("ix_versions_run", "run_id", postgresql_where=text("run_id <> ''")),
    Index("ix_versions_artifact_root", "artifact_root", postgresql_where=text("artifact_root is not null")),
    Index("ix_versions_updated", "updated_at", "model_id", "version"),
    Index(
        "ix_versions_model_updated", "model_id", "updated_at", "version", postgresql_where=text("deleted_at is null")
    ),
    Index("ix_versions_tags", "tags", postgresql_using="gin", postgresql_ops={"tags": "jsonb_path_ops"}),
)

version_events = Table(
    "version_events",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("model_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    _moment("at"),
    Column("by", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
    ForeignKeyConstraint(["model_id", "version"], ["versions.model_id", "versions.version"]),
    Index("ix_version_events_version", "model_id", "version", "seq"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("model_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("by", Text, nullable=False),
    Column("decision", Text, nullable=False),
    _moment("at"),
    Column("comment", Text, nullable=False, server_default=""),
    Column("evidence_digest", Text, nullable=False),
    ForeignKeyConstraint(["model_id", "version"], ["versions.model_id", "versions.version"]),
    Index("ix_approvals_version", "model_id", "version", "seq"),
)

dataset_uses = Table(
    "dataset_uses",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("dataset_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    ForeignKeyConstraint(["model_id", "version"], ["versions.model_id", "versions.version"]),
    Index("ix_dataset_uses_digest", "digest"),
    Index("ix_dataset_uses_dataset", "dataset_id"),
)

manifest_entries = Table(
    "manifest_entries",
    metadata,
    Column("manifest_digest", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Index("ix_manifest_entries_digest", "digest"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    _moment("created_at"),
    _moment("used_at"),
    Index("ix_blobs_used", "used_at"),
)

# Which tenants sent a blob, and so may name and read it; a blob goes when the last of them has let go of it.
blob_links = Table(
    "blob_links",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    _moment("used_at"),
    ForeignKeyConstraint(["digest"], ["blobs.digest"]),
    Index("ix_blob_links_digest", "digest"),
    Index("ix_blob_links_used", "used_at"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    _moment("at"),
    Column("by", Text, nullable=False),
    ForeignKeyConstraint(["model_id", "version"], ["versions.model_id", "versions.version"]),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("model_id", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("version", Integer, nullable=True),
    _moment("at"),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Index("ix_alias_history_alias", "model_id", "alias", "seq"),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("feature_service", Text, nullable=True),
    Column("live_version", Integer, nullable=True),
    Column("previous_version", Integer, nullable=True),
    Column("rollout_id", Text, nullable=True),
    Column("description", Text, nullable=False, server_default=""),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    ForeignKeyConstraint(["model_id"], ["models.id"]),
    Index("ix_endpoints_model", "model_id"),
)

endpoint_history = Table(
    "endpoint_history",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    _moment("since"),
    _moment("until", nullable=True),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("rollout_id", Text, nullable=True),
    Index("ix_endpoint_history_endpoint", "endpoint", "since"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("from_version", Integer, nullable=True),
    Column("phase", Text, nullable=False),
    Column("step", Integer, nullable=False),
    _moment("since"),
    _moment("wake_at", nullable=True),
    _moment("paused_at", nullable=True),
    Column("plan", JSONB, nullable=False),
    Column("reason", Text, nullable=False),
    Column("outcome", Text, nullable=False, server_default=""),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
    _moment("finished_at", nullable=True),
    ForeignKeyConstraint(["endpoint"], ["endpoints.name"]),
    Index("uq_rollouts_running", "endpoint", unique=True, postgresql_where=text("finished_at is null")),
    Index("ix_rollouts_wake", "wake_at", postgresql_where=text("finished_at is null")),
    Index("ix_rollouts_endpoint", "endpoint", "created_at"),
)

rollout_events = Table(
    "rollout_events",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("rollout_id", Text, nullable=False),
    _moment("at"),
    Column("state", Text, nullable=False),
    Column("step", Integer, nullable=True),
    Column("weight", Float, nullable=False),
    Column("detail", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("analysis", JSONB, nullable=True),
    ForeignKeyConstraint(["rollout_id"], ["rollouts.id"]),
    Index("ix_rollout_events_rollout", "rollout_id", "seq"),
)

observed = Table(
    "observed",
    metadata,
    Column("instance", Text, primary_key=True),
    _moment("at"),
    Column("revision", Text, nullable=True),
    Column("versions", JSONB, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("events", JSONB, nullable=False, server_default="[]"),
    Column("model", Text, nullable=True),
    Column("format", Text, nullable=False, server_default="cloudevents"),
    Column("enabled", Boolean, nullable=False, server_default="true"),
    Column("disabled_reason", Text, nullable=False, server_default=""),
    Column("secret_generation", Integer, nullable=False, server_default="1"),
    _moment("rotated_at", nullable=True),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    Index("ix_webhooks_tenant", "tenant", "id"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("webhook_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("attempts", JSONB, nullable=False, server_default="[]"),
    _moment("next_at", nullable=True),
    _moment("created_at"),
    ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], ondelete="CASCADE"),
    UniqueConstraint("webhook_id", "event_id"),
    Index("ix_webhook_deliveries_due", "next_at", postgresql_where=text("status = 'pending'")),
    Index("ix_webhook_deliveries_webhook", "webhook_id", "seq"),
    Index("ix_webhook_deliveries_created", "created_at"),
)

version_signatures = Table(
    "version_signatures",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("bundle", LargeBinary, nullable=False),
    _moment("at"),
    Column("by", Text, nullable=False),
    ForeignKeyConstraint(["model_id", "version"], ["versions.model_id", "versions.version"]),
)
