"""Which tenants sent a blob: the links through which they name and read it.

Links are made for what each tenant names by now: files of versions, artifacts of runs and logged models, uploads in
parts that it finished within the last day. A blob under legal hold that nobody names is linked to who holds it, so that
it is kept. What was uploaded and is named by nobody yet has no link: it is sent again before a version can name it.

Revision ID: 0202
Revises: 0102
"""

import sqlalchemy as sa
from alembic import op

revision = "0202"
down_revision = "0102"
branch_labels = None
depends_on = None
_SCHEMA = "registry"

_NAMED = """
    insert into registry.blob_links (tenant, digest, used_at)
    select named.tenant, blobs.digest, blobs.used_at
    from registry.blobs
    join (
        select models.tenant, entries.digest
        from registry.manifest_entries entries
        join registry.versions on versions.manifest_digest = entries.manifest_digest
        join registry.models on models.id = versions.model_id
        union
        select tenant, digest from registry.artifacts
        union
        select tenant, finished_digest from registry.uploads where finished_digest is not null
    ) named on named.digest = blobs.digest
"""
_HELD = """
    insert into registry.blob_links (tenant, digest, used_at)
    select distinct holds.tenant, blobs.digest, blobs.used_at
    from registry.blobs
    join registry.holds on holds.digest = blobs.digest and holds.lifted_at is null
    where not exists (select 1 from registry.blob_links links where links.digest = blobs.digest)
"""


def upgrade() -> None:
    op.create_index("ix_versions_manifest", "versions", ["manifest_digest"], schema=_SCHEMA)
    op.create_table(
        "blob_links",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["registry.blobs.digest"], name=op.f("fk_blob_links_digest_blobs")),
        sa.PrimaryKeyConstraint("tenant", "digest", name=op.f("pk_blob_links")),
        schema=_SCHEMA,
    )
    op.execute(_NAMED)
    op.execute(_HELD)
    op.create_index("ix_blob_links_digest", "blob_links", ["digest"], schema=_SCHEMA)
    op.create_index("ix_blob_links_used", "blob_links", ["used_at"], schema=_SCHEMA)
