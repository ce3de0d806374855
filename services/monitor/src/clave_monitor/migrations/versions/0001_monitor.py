"""Predictions, outcomes, windows, monitors, alerts, decisions, log batches.

Revision ID: 0001
Revises: None
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("count", sa.Integer(), server_default="1", nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=True),
        sa.Column("raised_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("snoozed_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        schema="monitor",
    )
    op.create_index("ix_alerts_last", "alerts", ["last_at", "id"], unique=False, schema="monitor")
    op.create_index(
        "uq_alerts_standing",
        "alerts",
        ["endpoint", "model", "model_version", "name"],
        unique=True,
        schema="monitor",
        postgresql_where=sa.text("state <> 'resolved'"),
    )
    op.create_table(
        "column_sets",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("columns", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_column_sets")),
        sa.UniqueConstraint("digest", name=op.f("uq_column_sets_digest")),
        schema="monitor",
    )
    op.create_table(
        "consumed_events",
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "event_id", name=op.f("pk_consumed_events")),
        schema="monitor",
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=True),
        sa.Column("approved_by", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("run_status", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
        schema="monitor",
    )
    op.create_index("ix_decisions_endpoint", "decisions", ["endpoint", "at", "id"], unique=False, schema="monitor")
    op.create_table(
        "endpoints",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=True),
        sa.Column("live_model", sa.Text(), nullable=True),
        sa.Column("live_version", sa.Integer(), nullable=True),
        sa.Column("live_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("policy_revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("policy_by", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_endpoints")),
        schema="monitor",
    )
    op.create_table(
        "feedback",
        sa.Column("prediction_id", sa.Text(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Float(), nullable=False),
        sa.Column("attributes", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("prediction_id", "row", name=op.f("pk_feedback")),
        schema="monitor",
    )
    op.create_index(
        "ix_feedback_pending",
        "feedback",
        ["received_at"],
        unique=False,
        schema="monitor",
        postgresql_where=sa.text("joined_at is null"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency_keys")),
        schema="monitor",
    )
    op.create_table(
        "log_batches",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("column_set", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("assigned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_batches")),
        schema="monitor",
    )
    op.create_index(
        "ix_log_batches_unwritten",
        "log_batches",
        ["id"],
        unique=False,
        schema="monitor",
        postgresql_where=sa.text("written_at is null"),
    )
    op.create_table(
        "monitors",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("reference_digest", sa.Text(), nullable=True),
        sa.Column("reference_problem", sa.Text(), nullable=True),
        sa.Column("state", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("windows", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rows", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_window_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "model", "model_version", name=op.f("pk_monitors")),
        schema="monitor",
    )
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
        sa.UniqueConstraint("id", name=op.f("uq_outbox_id")),
        schema="monitor",
    )
    op.create_index("ix_outbox_stream_seq", "outbox", ["stream", "seq"], unique=False, schema="monitor")
    op.create_table(
        "predictions",
        sa.Column("prediction_id", sa.Text(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("predicted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("column_set", sa.Integer(), nullable=False),
        sa.Column("features", sa.LargeBinary(), nullable=False, comment="float32, little-endian, NaN = missing"),
        sa.Column("entities", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("label", sa.SmallInteger(), nullable=True),
        sa.Column("latency_ms", sa.Float(), nullable=True, comment="Of the request, on its first row only"),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Float(), nullable=True),
        sa.Column("attributes", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("labelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("counted", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("window_id", sa.BigInteger(), nullable=True),
        sa.Column("log_batch", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("prediction_id", "row", name=op.f("pk_predictions")),
        sa.UniqueConstraint("seq", name=op.f("uq_predictions_seq")),
        schema="monitor",
    )
    op.create_index("ix_predictions_age", "predictions", ["received_at"], unique=False, schema="monitor")
    op.create_index(
        "ix_predictions_labelled",
        "predictions",
        ["endpoint", "labelled_at", "prediction_id", "row"],
        unique=False,
        schema="monitor",
    )
    op.create_index("ix_predictions_log_batch", "predictions", ["log_batch"], unique=False, schema="monitor")
    op.create_index(
        "ix_predictions_uncounted",
        "predictions",
        ["endpoint", "model", "model_version", "labelled_at"],
        unique=False,
        schema="monitor",
        postgresql_where=sa.text("labelled_at is not null and not counted"),
    )
    op.create_index(
        "ix_predictions_unlogged",
        "predictions",
        ["seq"],
        unique=False,
        schema="monitor",
        postgresql_where=sa.text("log_batch is null"),
    )
    op.create_index(
        "ix_predictions_version",
        "predictions",
        ["endpoint", "model_version", "predicted_at"],
        unique=False,
        schema="monitor",
    )
    op.create_index(
        "ix_predictions_waiting",
        "predictions",
        ["endpoint", "model", "model_version", "seq"],
        unique=False,
        schema="monitor",
        postgresql_where=sa.text("window_id is null and error is null"),
    )
    op.create_table(
        "windows",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reference_digest", sa.Text(), nullable=False),
        sa.Column("counters", sa.LargeBinary(), nullable=False, comment="int64, little-endian, columns x slots, zlib"),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_windows")),
        schema="monitor",
    )
    op.create_index(
        "uq_windows_number", "windows", ["endpoint", "model", "model_version", "number"], unique=True, schema="monitor"
    )
