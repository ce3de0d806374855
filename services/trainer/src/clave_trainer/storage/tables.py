"""Tables of the schema `trainer`."""

from clave_common.database import service_metadata
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

METADATA = service_metadata("trainer")

_EMPTY_OBJECT = text("'{}'::jsonb")
_EMPTY_LIST = text("'[]'::jsonb")


def _moment(name: str, *, required: bool = False, now: bool = False) -> Column[object]:
    default = func.now() if now else None
    return Column(name, DateTime(timezone=True), nullable=not (required or now), server_default=default)


PIPELINES = Table(
    "pipelines",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),
    _moment("updated_at", now=True),
    Column("updated_by", Text, nullable=False),
)

RUNS = Table(
    "runs",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("pipeline", Text, ForeignKey("trainer.pipelines.name"), nullable=False),
    Column("pipeline_version", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("status", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("requested_by", Text, nullable=False),
    Column("tenant", Text, nullable=False, server_default="default"),
    _moment("evaluation_after"),
    Column("roll_out", Boolean, nullable=False, server_default=text("true")),
    Column("retraining_decision_id", Text, unique=True),
    Column("reasons", JSONB, nullable=False, server_default=_EMPTY_LIST),
    Column("gates", JSONB, nullable=False, server_default=_EMPTY_LIST),
    Column("model", Text),
    Column("model_version", Integer),
    Column("rollout_id", Text),
    _moment("created_at", now=True),
    _moment("finished_at"),
    Index("ix_runs_created_at", "created_at", "id"),
    Index("ix_runs_pipeline", "pipeline", "created_at"),
)

STEPS = Table(
    "steps",
    METADATA,
    Column("run_id", Text, ForeignKey("trainer.runs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("deps", ARRAY(Text), nullable=False),
    Column("resource_class", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("attempts_max", Integer, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("token", Text),
    _moment("lease_until"),
    _moment("ready_at"),
    _moment("rung_at"),
    _moment("wake_at"),
    Column("resumed", Boolean, nullable=False, server_default=text("false")),
    Column("progress", Float, nullable=False, server_default="0"),
    Column("message", Text, nullable=False, server_default=""),
    Column("output", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    _moment("started_at"),
    _moment("finished_at"),
    Index(
        "ix_steps_live",
        "state",
        "resource_class",
        postgresql_where=text("state in ('ready', 'running', 'waiting')"),
    ),
)

ATTEMPTS = Table(
    "attempts",
    METADATA,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("worker", Text, nullable=False),
    Column("token", Text, nullable=False, unique=True),
    _moment("started_at", now=True),
    _moment("finished_at"),
    Column("outcome", Text),
    Column("error", Text),
    ForeignKeyConstraint(["run_id", "step"], ["trainer.steps.run_id", "trainer.steps.name"], ondelete="CASCADE"),
    Index("ix_attempts_step", "run_id", "step"),
)

SCHEDULES = Table(
    "schedules",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("pipeline", Text, ForeignKey("trainer.pipelines.name"), nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("enabled", Boolean, nullable=False),
    _moment("next_at"),
    Column("last_skip", Text, nullable=False, server_default=""),
    Column("created_by", Text, nullable=False),
    _moment("updated_at", now=True),
    Index("ix_schedules_due", "next_at", postgresql_where=text("enabled")),
)

FIRES = Table(
    "fires",
    METADATA,
    Column("schedule_id", Text, ForeignKey("trainer.schedules.id", ondelete="CASCADE"), primary_key=True),
    Column("due", DateTime(timezone=True), primary_key=True),
    _moment("at", now=True),
    Column("run_id", Text),
    Column("skipped", Text, nullable=False, server_default=""),
)
