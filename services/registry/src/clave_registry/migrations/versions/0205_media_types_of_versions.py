"""Each version keeps what its registration called its files; a manifest, which tenants share, says bytes alone.

Revision ID: 0205
Revises: 0204
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0205"
down_revision = "0204"
branch_labels = None
depends_on = None
_FILL = """
    update registry.versions set media_types = named.media_types
    from (
        select manifest_digest, jsonb_object_agg(path, media_type) as media_types
        from registry.manifest_entries where media_type <> 'application/octet-stream' group by manifest_digest
    ) named
    where named.manifest_digest = versions.manifest_digest
"""


def upgrade() -> None:
    column = sa.Column("media_types", JSONB(), nullable=False, server_default="{}")
    op.add_column("versions", column, schema="registry")
    op.execute(_FILL)
