"""Create the tables of the feature store."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("batch_no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("view", sa.Text(), nullable=False),
        sa.Column("view_version", sa.Integer(), nullable=False),
        sa.Column("content_digest", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_by", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("accepted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("quarantined", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False),
        sa.Column("online_written", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("online_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("batch_no", name=op.f("pk_batches")),
        sa.UniqueConstraint("id", name=op.f("uq_batches_id")),
        sa.UniqueConstraint("view", "idempotency_key", name=op.f("uq_batches_view_idempotency_key")),
        sa.UniqueConstraint(
            "view", "view_version", "content_digest", name=op.f("uq_batches_view_view_version_content_digest")
        ),
        schema="features",
    )
    op.create_index("ix_batches_status_online_at", "batches", ["status", "online_at"], unique=False, schema="features")
    op.create_table(
        "consumed_events",
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "event_id", name=op.f("pk_consumed_events")),
        schema="features",
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency_keys")),
        schema="features",
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
        schema="features",
    )
    op.create_index("ix_outbox_stream_seq", "outbox", ["stream", "seq"], unique=False, schema="features")
    op.create_table(
        "revisions",
        sa.Column("revision", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("applied_by", sa.Text(), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_revisions")),
        schema="features",
    )
    op.create_table(
        "training_sets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("manifest_digest", sa.Text(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("description", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("feature_service", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_sets")),
        sa.UniqueConstraint("name", "manifest_digest", name=op.f("uq_training_sets_name_manifest_digest")),
        schema="features",
    )
    op.create_index(
        "ix_training_sets_created_at", "training_sets", ["created_at", "id"], unique=False, schema="features"
    )
    op.create_table(
        "definitions",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision"], ["features.revisions.revision"], name=op.f("fk_definitions_revision_revisions")
        ),
        sa.PrimaryKeyConstraint("kind", "name", "version", name=op.f("pk_definitions")),
        schema="features",
    )
    op.create_index(
        "uq_definitions_current",
        "definitions",
        ["kind", "name"],
        unique=True,
        schema="features",
        postgresql_where=sa.text("current"),
    )
    op.create_table(
        "history_files",
        sa.Column("batch_no", sa.BigInteger(), nullable=False),
        sa.Column("view", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("columns", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("event_ts_min", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_ts_max", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_no"], ["features.batches.batch_no"], name=op.f("fk_history_files_batch_no_batches")
        ),
        sa.PrimaryKeyConstraint("batch_no", name=op.f("pk_history_files")),
        schema="features",
    )
    op.create_index(op.f("ix_features_history_files_view"), "history_files", ["view"], unique=False, schema="features")
    op.create_table(
        "quarantined_rows",
        sa.Column("batch_no", sa.BigInteger(), nullable=False),
        sa.Column("row_number", sa.BigInteger(), nullable=False),
        sa.Column("view", sa.Text(), nullable=False),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_no"], ["features.batches.batch_no"], name=op.f("fk_quarantined_rows_batch_no_batches")
        ),
        sa.PrimaryKeyConstraint("batch_no", "row_number", name=op.f("pk_quarantined_rows")),
        schema="features",
    )
    op.create_index(
        "ix_quarantined_rows_view",
        "quarantined_rows",
        ["view", "batch_no", "row_number"],
        unique=False,
        schema="features",
    )


def downgrade() -> None:
    op.drop_table("quarantined_rows", schema="features")
    op.drop_table("history_files", schema="features")
    op.drop_table("definitions", schema="features")
    op.drop_table("training_sets", schema="features")
    op.drop_table("revisions", schema="features")
    op.drop_table("outbox", schema="features")
    op.drop_table("idempotency_keys", schema="features")
    op.drop_table("consumed_events", schema="features")
    op.drop_table("batches", schema="features")
