"""Tables around blobs: uploads that come in parts, and legal holds."""

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Integer, Table, Text, text

from clave_registry.storage.tables import metadata

__all__ = ["holds", "metadata", "uploads"]

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("path", Text, nullable=True),
    Column("digest", Text, nullable=True),
    Column("parts", Integer, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("finished_digest", Text, nullable=True),
    Column("finished_size", BigInteger, nullable=True),
    Index("ix_uploads_created", "created_at"),
    Index("ix_uploads_digest", "tenant", "digest", postgresql_where=text("digest is not null")),
)

holds = Table(
    "holds",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("model_id", Text, nullable=True),
    Column("version", Integer, nullable=True),
    Column("digest", Text, nullable=True),
    Column("reason", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("lifted_by", Text, nullable=True),
    Column("lifted_at", DateTime(timezone=True), nullable=True),
    Column("lift_reason", Text, nullable=True),
    Index(
        "uq_holds_version",
        "model_id",
        "version",
        unique=True,
        postgresql_where=text("lifted_at is null and model_id is not null"),
    ),
    Index(
        "uq_holds_digest",
        "tenant",
        "digest",
        unique=True,
        postgresql_where=text("lifted_at is null and digest is not null"),
    ),
)
