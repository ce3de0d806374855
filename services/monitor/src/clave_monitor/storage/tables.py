"""The monitor's tables. What they mean is said in `domain`; how they came to be, in `migrations`."""

from clave_common.database import service_metadata
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "monitor"
metadata = service_metadata(SCHEMA)


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


column_sets = Table(
    "column_sets",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("columns", JSONB, nullable=False),
)

predictions = Table(
    "predictions",
    metadata,
    Column("prediction_id", Text, primary_key=True),
    Column("row", Integer, primary_key=True),
    Column("seq", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_version", Integer, nullable=False),
    Column("arm", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("protocol", Text, nullable=False),
    _moment("predicted_at"),
    _moment("received_at"),
    Column("column_set", Integer, nullable=False),
    Column("features", LargeBinary, nullable=False, comment="float32, little-endian, NaN = missing"),
    Column("entities", JSONB(none_as_null=True), nullable=True),
    Column("score", Float, nullable=True),
    Column("label", SmallInteger, nullable=True),
    Column("latency_ms", Float, nullable=True, comment="Of the request, on its first row only"),
    Column("error", Text, nullable=True),
    Column("outcome", Float, nullable=True),
    Column("attributes", JSONB(none_as_null=True), nullable=True),
    _moment("occurred_at", nullable=True),
    _moment("labelled_at", nullable=True),
    Column("counted", Boolean, nullable=False, server_default="false"),
    Column("window_id", BigInteger, nullable=True),
    Column("log_batch", BigInteger, nullable=True),
    Index(
        "ix_predictions_waiting",
        "endpoint",
        "model",
        "model_version",
        "seq",
        postgresql_where=text("window_id is null and error is null"),
    ),
    Index(
        "ix_predictions_uncounted",
        "endpoint",
        "model",
        "model_version",
        "labelled_at",
        postgresql_where=text("labelled_at is not null and not counted"),
    ),
    Index("ix_predictions_labelled", "endpoint", "labelled_at", "prediction_id", "row"),
    Index("ix_predictions_version", "endpoint", "model_version", "predicted_at"),
    Index("ix_predictions_unlogged", "seq", postgresql_where=text("log_batch is null")),
    Index("ix_predictions_log_batch", "log_batch"),
    Index("ix_predictions_age", "received_at"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("prediction_id", Text, primary_key=True),
    Column("row", Integer, primary_key=True),
    Column("outcome", Float, nullable=False),
    Column("attributes", JSONB(none_as_null=True), nullable=True),
    Column("principal", Text, nullable=False),
    _moment("occurred_at", nullable=True),
    _moment("received_at"),
    _moment("joined_at", nullable=True),
    Index("ix_feedback_pending", "received_at", postgresql_where=text("joined_at is null")),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("namespace", Text, nullable=True),
    Column("live_model", Text, nullable=True),
    Column("live_version", Integer, nullable=True),
    _moment("live_at", nullable=True),
    Column("policy", JSONB, nullable=False, server_default="{}"),
    Column("policy_revision", BigInteger, nullable=False, server_default="0"),
    Column("policy_by", Text, nullable=True),
    _moment("updated_at"),
)

monitors = Table(
    "monitors",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("model_version", Integer, primary_key=True),
    Column("reference_digest", Text, nullable=True),
    Column("reference_problem", Text, nullable=True),
    Column("state", JSONB, nullable=False, server_default="{}"),
    Column("report", JSONB, nullable=False, server_default="{}"),
    Column("windows", Integer, nullable=False, server_default="0"),
    Column("rows", BigInteger, nullable=False, server_default="0"),
    Column("labels", BigInteger, nullable=False, server_default="0"),
    _moment("first_at"),
    _moment("last_window_at", nullable=True),
    _moment("updated_at"),
)

windows = Table(
    "windows",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_version", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    _moment("first_at"),
    _moment("last_at"),
    _moment("closed_at"),
    Column("reference_digest", Text, nullable=False),
    Column("counters", LargeBinary, nullable=False, comment="int64, little-endian, columns x slots, zlib"),
    Column("result", JSONB, nullable=False),
    Index("uq_windows_number", "endpoint", "model", "model_version", "number", unique=True),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_version", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("remedy", Text, nullable=False),
    Column("evidence", JSONB, nullable=False, server_default="{}"),
    Column("count", Integer, nullable=False, server_default="1"),
    Column("changed_by", Text, nullable=True),
    _moment("raised_at"),
    _moment("last_at"),
    _moment("snoozed_until", nullable=True),
    Index(
        "uq_alerts_standing",
        "endpoint",
        "model",
        "model_version",
        "name",
        unique=True,
        postgresql_where=text("state <> 'resolved'"),
    ),
    Index("ix_alerts_last", "last_at", "id"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_version", Integer, nullable=False),
    _moment("at"),
    Column("decision", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("sentence", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("approved", Boolean, nullable=True),
    Column("approved_by", Text, nullable=True),
    Column("run_id", Text, nullable=True),
    Column("run_status", Text, nullable=True),
    _moment("ended_at", nullable=True),
    Index("ix_decisions_endpoint", "endpoint", "at", "id"),
)

log_batches = Table(
    "log_batches",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("day", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("column_set", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    _moment("assigned_at"),
    _moment("written_at", nullable=True),
    Index("ix_log_batches_unwritten", "id", postgresql_where=text("written_at is null")),
)
