"""Uploads in parts, legal holds, and the index that keeps a model's versions in the order of their changes.

Revision ID: 0201
Revises: 0101
"""

import sqlalchemy as sa
from alembic import op

revision = "0201"
down_revision = "0101"
branch_labels = None
depends_on = None
_SCHEMA = "registry"


def upgrade() -> None:
    op.create_index(
        "ix_versions_model_updated",
        "versions",
        ["model_id", "updated_at", "version"],
        schema=_SCHEMA,
        postgresql_where=sa.text("deleted_at is null"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_digest", sa.Text(), nullable=True),
        sa.Column("finished_size", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        schema=_SCHEMA,
    )
    op.create_index("ix_uploads_created", "uploads", ["created_at"], schema=_SCHEMA)
    op.create_index(
        "ix_uploads_digest",
        "uploads",
        ["tenant", "digest"],
        schema=_SCHEMA,
        postgresql_where=sa.text("digest is not null"),
    )
    op.create_table(
        "holds",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lifted_by", sa.Text(), nullable=True),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lift_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_holds")),
        schema=_SCHEMA,
    )
    op.create_index(
        "uq_holds_version",
        "holds",
        ["model_id", "version"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=sa.text("lifted_at is null and model_id is not null"),
    )
    op.create_index(
        "uq_holds_digest",
        "holds",
        ["tenant", "digest"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=sa.text("lifted_at is null and digest is not null"),
    )
