"""Blobs carry no mark of being held any more: a hold keeps its tenant's link, and the link keeps the blob.

Revision ID: 0203
Revises: 0202
"""

from alembic import op

revision = "0203"
down_revision = "0202"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("blobs", "held", schema="registry")
