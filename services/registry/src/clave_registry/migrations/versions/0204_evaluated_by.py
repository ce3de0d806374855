"""Who recorded a version's evaluation; unknown of those registered before.

Revision ID: 0204
Revises: 0203
"""

import sqlalchemy as sa
from alembic import op

revision = "0204"
down_revision = "0203"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("evaluated_by", sa.Text(), nullable=True), schema="registry")
