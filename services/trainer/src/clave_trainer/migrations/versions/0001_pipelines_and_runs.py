"""Lay pipelines, runs, steps, attempts, schedules and fires.

Revision ID: 0001
Revises:
"""

from alembic import op
from sqlalchemy import text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
SCHEMA = "trainer"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(text(statement))


def downgrade() -> None:
    for table in TABLES:
        op.execute(text(f"drop table {SCHEMA}.{table}"))


TABLES = (
    "fires",
    "schedules",
    "attempts",
    "steps",
    "runs",
    "pipelines",
    "idempotency_keys",
    "consumed_events",
    "outbox",
)

STATEMENTS = (
    """
    CREATE TABLE trainer.consumed_events (
        consumer TEXT NOT NULL,
        event_id TEXT NOT NULL,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_consumed_events PRIMARY KEY (consumer, event_id)
    )
    """,
    """
    CREATE TABLE trainer.idempotency_keys (
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        status BIGINT,
        body BYTEA,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_idempotency_keys PRIMARY KEY (key)
    )
    """,
    """
    CREATE TABLE trainer.outbox (
        seq BIGINT GENERATED ALWAYS AS IDENTITY,
        stream TEXT NOT NULL,
        id TEXT NOT NULL,
        body BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_outbox PRIMARY KEY (seq),
        CONSTRAINT uq_outbox_id UNIQUE (id)
    )
    """,
    """
    CREATE INDEX ix_outbox_stream_seq ON trainer.outbox (stream, seq)
    """,
    """
    CREATE TABLE trainer.pipelines (
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        spec JSONB NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_by TEXT NOT NULL,
        CONSTRAINT pk_pipelines PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE trainer.runs (
        id TEXT NOT NULL,
        pipeline TEXT NOT NULL,
        pipeline_version INTEGER NOT NULL,
        spec JSONB NOT NULL,
        status TEXT NOT NULL,
        trigger TEXT NOT NULL,
        reason TEXT DEFAULT '' NOT NULL,
        requested_by TEXT NOT NULL,
        tenant TEXT DEFAULT 'default' NOT NULL,
        evaluation_after TIMESTAMP WITH TIME ZONE,
        roll_out BOOLEAN DEFAULT true NOT NULL,
        retraining_decision_id TEXT,
        reasons JSONB DEFAULT '[]'::jsonb NOT NULL,
        gates JSONB DEFAULT '[]'::jsonb NOT NULL,
        model TEXT,
        model_version INTEGER,
        rollout_id TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_runs PRIMARY KEY (id),
        CONSTRAINT fk_runs_pipeline_pipelines FOREIGN KEY(pipeline) REFERENCES trainer.pipelines (name),
        CONSTRAINT uq_runs_retraining_decision_id UNIQUE (retraining_decision_id)
    )
    """,
    """
    CREATE INDEX ix_runs_created_at ON trainer.runs (created_at, id)
    """,
    """
    CREATE INDEX ix_runs_pipeline ON trainer.runs (pipeline, created_at)
    """,
    """
    CREATE TABLE trainer.schedules (
        id TEXT NOT NULL,
        pipeline TEXT NOT NULL,
        spec JSONB NOT NULL,
        enabled BOOLEAN NOT NULL,
        next_at TIMESTAMP WITH TIME ZONE,
        last_skip TEXT DEFAULT '' NOT NULL,
        created_by TEXT NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_schedules PRIMARY KEY (id),
        CONSTRAINT fk_schedules_pipeline_pipelines FOREIGN KEY(pipeline) REFERENCES trainer.pipelines (name)
    )
    """,
    """
    CREATE INDEX ix_schedules_due ON trainer.schedules (next_at) WHERE enabled
    """,
    """
    CREATE TABLE trainer.fires (
        schedule_id TEXT NOT NULL,
        due TIMESTAMP WITH TIME ZONE NOT NULL,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        run_id TEXT,
        skipped TEXT DEFAULT '' NOT NULL,
        CONSTRAINT pk_fires PRIMARY KEY (schedule_id, due),
        CONSTRAINT fk_fires_schedule_id_schedules FOREIGN KEY(schedule_id)
            REFERENCES trainer.schedules (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE trainer.steps (
        run_id TEXT NOT NULL,
        name TEXT NOT NULL,
        position INTEGER NOT NULL,
        deps TEXT[] NOT NULL,
        resource_class TEXT NOT NULL,
        state TEXT NOT NULL,
        attempt INTEGER DEFAULT '0' NOT NULL,
        attempts_max INTEGER NOT NULL,
        timeout_s FLOAT NOT NULL,
        token TEXT,
        lease_until TIMESTAMP WITH TIME ZONE,
        ready_at TIMESTAMP WITH TIME ZONE,
        rung_at TIMESTAMP WITH TIME ZONE,
        wake_at TIMESTAMP WITH TIME ZONE,
        resumed BOOLEAN DEFAULT false NOT NULL,
        progress FLOAT DEFAULT '0' NOT NULL,
        message TEXT DEFAULT '' NOT NULL,
        output JSONB DEFAULT '{}'::jsonb NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE,
        finished_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_steps PRIMARY KEY (run_id, name),
        CONSTRAINT fk_steps_run_id_runs FOREIGN KEY(run_id) REFERENCES trainer.runs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_steps_live ON trainer.steps (state, resource_class) WHERE state in ('ready', 'running', 'waiting')
    """,
    """
    CREATE TABLE trainer.attempts (
        seq BIGINT GENERATED ALWAYS AS IDENTITY,
        run_id TEXT NOT NULL,
        step TEXT NOT NULL,
        number INTEGER NOT NULL,
        worker TEXT NOT NULL,
        token TEXT NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        outcome TEXT,
        error TEXT,
        CONSTRAINT pk_attempts PRIMARY KEY (seq),
        CONSTRAINT fk_attempts_run_id_steps FOREIGN KEY(run_id, step)
            REFERENCES trainer.steps (run_id, name) ON DELETE CASCADE,
        CONSTRAINT uq_attempts_token UNIQUE (token)
    )
    """,
    """
    CREATE INDEX ix_attempts_step ON trainer.attempts (run_id, step)
    """,
)
