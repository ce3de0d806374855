"""Manifests name paths, digests and sizes, which is what their digest is over.

Revision ID: 0206
Revises: 0205
"""

from alembic import op

revision = "0206"
down_revision = "0205"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("manifest_entries", "media_type", schema="registry")
