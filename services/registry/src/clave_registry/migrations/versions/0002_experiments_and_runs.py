"""Experiments, runs, metrics, logged models, artifacts: what MLflow's clients keep.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "path", name=op.f("pk_artifacts")),
        schema="registry",
    )
    op.create_index("ix_artifacts_digest", "artifacts", ["digest"], unique=False, schema="registry")
    op.create_index(
        "ix_artifacts_path",
        "artifacts",
        ["tenant", "path"],
        unique=False,
        schema="registry",
        postgresql_ops={"path": "text_pattern_ops"},
    )
    op.create_table(
        "experiments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False, start=1), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("artifact_location", sa.Text(), nullable=False),
        sa.Column("lifecycle_stage", sa.Text(), nullable=False),
        sa.Column("creation_time", sa.BigInteger(), nullable=False),
        sa.Column("last_update_time", sa.BigInteger(), nullable=False),
        sa.Column("tags", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("tenant", "name", name=op.f("uq_experiments_tenant_name")),
        schema="registry",
    )
    op.create_table(
        "logged_models",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("artifact_uri", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_message", sa.Text(), server_default="", nullable=False),
        sa.Column("model_type", sa.Text(), server_default="", nullable=False),
        sa.Column("source_run_id", sa.Text(), server_default="", nullable=False),
        sa.Column("creation_time", sa.BigInteger(), nullable=False),
        sa.Column("last_updated_time", sa.BigInteger(), nullable=False),
        sa.Column("lifecycle_stage", sa.Text(), nullable=False),
        sa.Column("tags", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["registry.experiments.id"], name=op.f("fk_logged_models_experiment_id_experiments")
        ),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_logged_models")),
        schema="registry",
    )
    op.create_index(
        "ix_logged_models_experiment",
        "logged_models",
        ["experiment_id", "creation_time", "model_id"],
        unique=False,
        schema="registry",
    )
    op.create_index("ix_logged_models_name", "logged_models", ["name"], unique=False, schema="registry")
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("run_name", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.Column("end_time", sa.BigInteger(), nullable=True),
        sa.Column("lifecycle_stage", sa.Text(), nullable=False),
        sa.Column("artifact_uri", sa.Text(), nullable=False),
        sa.Column("tags", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["registry.experiments.id"], name=op.f("fk_runs_experiment_id_experiments")
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
        schema="registry",
    )
    op.create_index(
        "ix_runs_experiment_start", "runs", ["experiment_id", "start_time", "run_id"], unique=False, schema="registry"
    )
    op.create_index(
        "ix_runs_params",
        "runs",
        ["params"],
        unique=False,
        schema="registry",
        postgresql_using="gin",
        postgresql_ops={"params": "jsonb_path_ops"},
    )
    op.create_index(
        "ix_runs_tags",
        "runs",
        ["tags"],
        unique=False,
        schema="registry",
        postgresql_using="gin",
        postgresql_ops={"tags": "jsonb_path_ops"},
    )
    op.create_table(
        "latest_metrics",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("is_nan", sa.Boolean(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("dataset_name", sa.Text(), nullable=True),
        sa.Column("dataset_digest", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["registry.runs.run_id"], name=op.f("fk_latest_metrics_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "key", name=op.f("pk_latest_metrics")),
        schema="registry",
    )
    op.create_index("ix_latest_metrics_key_value", "latest_metrics", ["key", "value"], unique=False, schema="registry")
    op.create_table(
        "metrics",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("is_nan", sa.Boolean(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("dataset_name", sa.Text(), nullable=True),
        sa.Column("dataset_digest", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["registry.runs.run_id"], name=op.f("fk_metrics_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "key", "timestamp", "step", "value", "is_nan", name=op.f("pk_metrics")),
        schema="registry",
    )
    op.create_index(
        "ix_metrics_model",
        "metrics",
        ["model_id", "key"],
        unique=False,
        schema="registry",
        postgresql_where=sa.text("model_id is not null"),
    )
    op.create_table(
        "run_datasets",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("schema", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("tags", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["registry.runs.run_id"], name=op.f("fk_run_datasets_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "name", "digest", name=op.f("pk_run_datasets")),
        schema="registry",
    )
    op.create_index("ix_run_datasets_digest", "run_datasets", ["digest"], unique=False, schema="registry")
    op.create_table(
        "run_models",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["registry.runs.run_id"], name=op.f("fk_run_models_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "model_id", "role", name=op.f("pk_run_models")),
        schema="registry",
    )
    op.add_column("versions", sa.Column("source", sa.Text(), server_default="", nullable=False), schema="registry")
    op.add_column("versions", sa.Column("artifact_root", sa.Text(), nullable=True), schema="registry")
    op.add_column("versions", sa.Column("run_id", sa.Text(), server_default="", nullable=False), schema="registry")
    op.add_column("versions", sa.Column("run_link", sa.Text(), server_default="", nullable=False), schema="registry")
    op.add_column("versions", sa.Column("logged_model_id", sa.Text(), nullable=True), schema="registry")
    op.add_column(
        "versions", sa.Column("legacy_stage", sa.Text(), server_default="None", nullable=False), schema="registry"
    )
    op.add_column("versions", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True), schema="registry")
    op.create_index(
        "ix_versions_artifact_root",
        "versions",
        ["artifact_root"],
        unique=False,
        schema="registry",
        postgresql_where=sa.text("artifact_root is not null"),
    )
    op.create_index(
        "ix_versions_run",
        "versions",
        ["run_id"],
        unique=False,
        schema="registry",
        postgresql_where=sa.text("run_id <> ''"),
    )
    op.execute(
        "insert into registry.experiments (id, tenant, name, artifact_location, lifecycle_stage, creation_time,"
        " last_update_time) values (0, 'default', 'Default', 'mlflow-artifacts:/0', 'active', 0, 0)"
    )
