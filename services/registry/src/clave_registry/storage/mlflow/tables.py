"""Tables of experiments, runs, metrics, logged models and their artifacts. Times are MLflow's: epoch milliseconds."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Identity,
    Index,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from clave_registry.storage.blob_tables import metadata

__all__ = [
    "artifacts",
    "experiments",
    "latest_metrics",
    "logged_models",
    "metadata",
    "metrics",
    "run_datasets",
    "run_models",
    "runs",
]
_PATHS = {"tags": "jsonb_path_ops"}

experiments = Table(
    "experiments",
    metadata,
    Column("id", BigInteger, Identity(always=False, start=1), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("artifact_location", Text, nullable=False),
    Column("lifecycle_stage", Text, nullable=False),
    Column("creation_time", BigInteger, nullable=False),
    Column("last_update_time", BigInteger, nullable=False),
    Column("tags", JSONB, nullable=False, server_default="{}"),
    UniqueConstraint("tenant", "name"),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("experiment_id", BigInteger, nullable=False),
    Column("run_name", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("end_time", BigInteger, nullable=True),
    Column("lifecycle_stage", Text, nullable=False),
    Column("artifact_uri", Text, nullable=False),
    Column("tags", JSONB, nullable=False, server_default="{}"),
    Column("params", JSONB, nullable=False, server_default="{}"),
    ForeignKeyConstraint(["experiment_id"], ["experiments.id"]),
    Index("ix_runs_experiment_start", "experiment_id", "start_time", "run_id"),
    Index("ix_runs_tags", "tags", postgresql_using="gin", postgresql_ops=_PATHS),
    Index("ix_runs_params", "params", postgresql_using="gin", postgresql_ops={"params": "jsonb_path_ops"}),
)

metrics = Table(
    "metrics",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("timestamp", BigInteger, primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("value", Float, primary_key=True),
    Column("is_nan", Boolean, primary_key=True),
    Column("model_id", Text, nullable=True),
    Column("dataset_name", Text, nullable=True),
    Column("dataset_digest", Text, nullable=True),
    ForeignKeyConstraint(["run_id"], ["runs.run_id"]),
    Index("ix_metrics_model", "model_id", "key", postgresql_where=text("model_id is not null")),
)

latest_metrics = Table(
    "latest_metrics",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("timestamp", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("value", Float, nullable=False),
    Column("is_nan", Boolean, nullable=False),
    Column("model_id", Text, nullable=True),
    Column("dataset_name", Text, nullable=True),
    Column("dataset_digest", Text, nullable=True),
    ForeignKeyConstraint(["run_id"], ["runs.run_id"]),
    Index("ix_latest_metrics_key_value", "key", "value"),
)

run_datasets = Table(
    "run_datasets",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("source_type", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("schema", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("tags", JSONB, nullable=False),
    ForeignKeyConstraint(["run_id"], ["runs.run_id"]),
    Index("ix_run_datasets_digest", "digest"),
)

run_models = Table(
    "run_models",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("model_id", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("step", BigInteger, nullable=False, server_default="0"),
    ForeignKeyConstraint(["run_id"], ["runs.run_id"]),
)

logged_models = Table(
    "logged_models",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("experiment_id", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("artifact_uri", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("status_message", Text, nullable=False, server_default=""),
    Column("model_type", Text, nullable=False, server_default=""),
    Column("source_run_id", Text, nullable=False, server_default=""),
    Column("creation_time", BigInteger, nullable=False),
    Column("last_updated_time", BigInteger, nullable=False),
    Column("lifecycle_stage", Text, nullable=False),
    Column("tags", JSONB, nullable=False, server_default="{}"),
    Column("params", JSONB, nullable=False, server_default="{}"),
    ForeignKeyConstraint(["experiment_id"], ["experiments.id"]),
    Index("ix_logged_models_experiment", "experiment_id", "creation_time", "model_id"),
    Index("ix_logged_models_name", "name"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Index("ix_artifacts_digest", "digest"),
    Index("ix_artifacts_path", "tenant", "path", postgresql_ops={"path": "text_pattern_ops"}),
)
