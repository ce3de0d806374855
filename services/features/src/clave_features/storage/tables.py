"""Tables of the schema `features`."""

from clave_common.database import service_metadata
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = service_metadata("features")

revisions = Table(
    "revisions",
    metadata,
    Column("revision", BigInteger, Identity(always=True), primary_key=True),
    Column("applied_by", Text, nullable=False),
    Column("applied_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

definitions = Table(
    "definitions",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("current", Boolean, nullable=False),
    Column("revision", BigInteger, ForeignKey(revisions.c.revision), nullable=False),
    Index(
        "uq_definitions_current",
        "kind",
        "name",
        unique=True,
        postgresql_where=text("current"),
    ),
)

batches = Table(
    "batches",
    metadata,
    Column("batch_no", BigInteger, Identity(always=True), primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("view", Text, nullable=False),
    Column("view_version", Integer, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("idempotency_key", Text, nullable=True),
    Column("status", Text, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("received_by", Text, nullable=False),
    Column("rows", BigInteger, nullable=False, server_default="0"),
    Column("accepted", BigInteger, nullable=False, server_default="0"),
    Column("quarantined", BigInteger, nullable=False, server_default="0"),
    Column("reasons", JSONB, nullable=False, server_default="[]"),
    Column("online_written", BigInteger, nullable=False, server_default="0"),
    Column("online_at", DateTime(timezone=True), nullable=True),
    UniqueConstraint("view", "view_version", "content_digest"),
    UniqueConstraint("view", "idempotency_key"),
    Index("ix_batches_status_online_at", "status", "online_at"),
)

history_files = Table(
    "history_files",
    metadata,
    Column("batch_no", BigInteger, ForeignKey(batches.c.batch_no), primary_key=True),
    Column("view", Text, nullable=False, index=True),
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("columns", JSONB, nullable=False),
    Column("event_ts_min", DateTime(timezone=True), nullable=False),
    Column("event_ts_max", DateTime(timezone=True), nullable=False),
)

quarantined_rows = Table(
    "quarantined_rows",
    metadata,
    Column("batch_no", BigInteger, ForeignKey(batches.c.batch_no), primary_key=True),
    Column("row_number", BigInteger, primary_key=True),
    Column("view", Text, nullable=False),
    Column("reasons", JSONB, nullable=False),
    Column("content", JSONB, nullable=False),
    Index("ix_quarantined_rows_view", "view", "batch_no", "row_number"),
)

training_sets = Table(
    "training_sets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("manifest_digest", Text, nullable=False),
    Column("manifest", JSONB, nullable=False),
    Column("description", JSONB, nullable=False),
    Column("feature_service", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("created_by", Text, nullable=False),
    UniqueConstraint("name", "manifest_digest"),
    Index("ix_training_sets_created_at", "created_at", "id"),
)
