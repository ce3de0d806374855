"""Signatures over the files of versions.

Revision ID: 0102
Revises: 0201
"""

import sqlalchemy as sa
from alembic import op

revision = "0102"
down_revision = "0201"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "version_signatures",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id", "version"],
            ["registry.versions.model_id", "registry.versions.version"],
            name=op.f("fk_version_signatures_model_id_versions"),
        ),
        sa.PrimaryKeyConstraint("model_id", "version", "key_id", name=op.f("pk_version_signatures")),
        schema="registry",
    )


def downgrade() -> None:
    op.drop_table("version_signatures", schema="registry")
