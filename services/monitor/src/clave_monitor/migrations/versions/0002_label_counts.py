"""Keep the number of labels in the monitor, so that a report counts nothing.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "monitors", sa.Column("labels", sa.BigInteger(), server_default="0", nullable=False), schema="monitor"
    )
    op.execute(
        "update monitor.monitors as m set labels = (select count(*) from monitor.predictions as p"
        " where p.endpoint = m.endpoint and p.model = m.model and p.model_version = m.model_version and p.counted)"
    )
