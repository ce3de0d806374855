"""Queries on which blobs are known, and to whom.

A blob is stored once, however many tenants send it. Each tenant that sent its bytes has a link to it, and only through
that link does it name or read the blob. Every blob that a version or an artifact names has a row and its tenant's link.
"""

from collections.abc import Iterable
from datetime import datetime

from clave_common.database import Transaction
from sqlalchemy import ColumnElement, Exists, delete, exists, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.blob_tables import holds
from clave_registry.storage.mlflow.tables import artifacts
from clave_registry.storage.tables import blob_links, blobs, manifest_entries, models, versions

_MANIFESTS = 0x6D616E69


async def note(tx: Transaction, tenant: str, digest: str, size: int, *, at: datetime) -> None:
    """Record that a tenant sent a blob, or sent it once more."""
    stored = insert(blobs).values(digest=digest, size=size, created_at=at, used_at=at)
    await tx.session.execute(stored.on_conflict_do_update(index_elements=["digest"], set_={"used_at": at}))
    linked = insert(blob_links).values(tenant=tenant, digest=digest, used_at=at)
    await tx.session.execute(linked.on_conflict_do_update(index_elements=["tenant", "digest"], set_={"used_at": at}))


async def is_linked(tx: Transaction, tenant: str, digest: str) -> bool:
    """Tell whether a tenant sent a blob and has not let go of it."""
    return (await tx.session.execute(select(blob_links.c.digest).where(_link(tenant, digest)))).first() is not None


async def keep_link(tx: Transaction, tenant: str, digest: str) -> None:
    """Keep a tenant's link from being ended until the transaction does; nothing where there is none."""
    statement = select(blob_links.c.digest).where(_link(tenant, digest))
    await tx.session.execute(statement.with_for_update(read=True, key_share=True))


def _link(tenant: str, digest: str) -> ColumnElement[bool]:
    return (blob_links.c.tenant == tenant) & (blob_links.c.digest == digest)


async def sizes(tx: Transaction, digests: Iterable[str], *, tenant: str | None) -> dict[str, int]:
    """Return the sizes of those blobs that a tenant sent, and keep them from being collected meanwhile.

    Args:
        tx: The operation's transaction.
        digests: The blobs.
        tenant: Whose; None for everybody's (services act for all tenants).
    """
    statement = select(blobs.c.digest, blobs.c.size).where(blobs.c.digest.in_(sorted(set(digests))))
    if tenant is not None:
        statement = statement.join(blob_links, blob_links.c.digest == blobs.c.digest)
        statement = statement.where(blob_links.c.tenant == tenant)
    statement = statement.order_by(blobs.c.digest).with_for_update(read=True, key_share=True)
    return {digest: int(size) for digest, size in (await tx.session.execute(statement)).all()}


async def link(tx: Transaction, tenant: str, digests: Iterable[str], *, at: datetime) -> None:
    """Link blobs, which this transaction keeps, to the tenant for which a service names them."""
    rows = [{"tenant": tenant, "digest": digest, "used_at": at} for digest in sorted(set(digests))]
    await tx.session.execute(insert(blob_links).on_conflict_do_nothing(), rows)


async def name_manifests(tx: Transaction) -> None:
    """Keep manifests from being forgotten until the transaction ends, because it is about to name one."""
    await tx.session.execute(select(func.pg_advisory_xact_lock_shared(_MANIFESTS)))


async def forget_manifests(tx: Transaction, *, deleted_before: datetime) -> int:
    """Forget the manifests that only versions name that were deleted before a time and are under no hold.

    Waits for those who are about to name one; the deletion's own snapshot then sees what they named.
    """
    await tx.session.execute(select(func.pg_advisory_xact_lock(_MANIFESTS)))
    this = versions.c.manifest_digest == manifest_entries.c.manifest_digest
    gone = await tx.session.execute(
        delete(manifest_entries)
        .where(exists().where(this), ~exists().where(this, _is_kept(deleted_before)))
        .returning(manifest_entries.c.manifest_digest)
    )
    return len(set(gone.scalars()))


def _is_kept(deleted_before: datetime) -> ColumnElement[bool]:
    """Whether a version still needs its files."""
    held = exists().where(
        holds.c.model_id == versions.c.model_id, holds.c.version == versions.c.version, holds.c.lifted_at.is_(None)
    )
    return or_(versions.c.deleted_at.is_(None), versions.c.deleted_at >= deleted_before, held)


async def end_links(tx: Transaction, *, before: datetime, deleted_before: datetime, limit: int) -> int:
    """End some links of tenants that name the blob no more, sent it before a time, and do not hold it.

    Whoever names a blob locks its link and names it in one transaction. So the links are locked first and judged again
    under their locks: that statement sees every name that was given until then, and no other can be given.

    Args:
        tx: The collection's transaction.
        before: Time of the last upload.
        deleted_before: Time from which on a deleted version still needs its files.
        limit: Links at most.

    Returns:
        Number of links ended.
    """
    unnamed = (blob_links.c.used_at < before, *(~each for each in _names(deleted_before)))
    candidates = (
        select(blob_links.c.tenant, blob_links.c.digest)
        .where(*unnamed)
        .order_by(blob_links.c.digest, blob_links.c.tenant)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    locked = [(tenant, digest) for tenant, digest in (await tx.session.execute(candidates)).all()]
    these = tuple_(blob_links.c.tenant, blob_links.c.digest).in_(locked)
    gone = await tx.session.execute(delete(blob_links).where(these, *unnamed).returning(blob_links.c.digest))
    return len(gone.all())


def _names(deleted_before: datetime) -> tuple[Exists, ...]:
    """What keeps a link: a version of its tenant, an artifact, a hold."""
    by_version = (
        select(manifest_entries.c.digest)
        .join(versions, versions.c.manifest_digest == manifest_entries.c.manifest_digest)
        .join(models, models.c.id == versions.c.model_id)
        .where(manifest_entries.c.digest == blob_links.c.digest, models.c.tenant == blob_links.c.tenant)
        .where(_is_kept(deleted_before))
        .correlate(blob_links)
        .exists()
    )
    by_artifact = exists().where(artifacts.c.digest == blob_links.c.digest, artifacts.c.tenant == blob_links.c.tenant)
    by_hold = exists().where(
        holds.c.digest == blob_links.c.digest, holds.c.tenant == blob_links.c.tenant, holds.c.lifted_at.is_(None)
    )
    return by_version, by_artifact, by_hold


async def take_unlinked(tx: Transaction, *, before: datetime, limit: int) -> list[str]:
    """Forget some blobs that no tenant is linked to, nothing names, and nobody sent since a time.

    Locked first and judged again under their locks, as links are.

    Returns:
        Their digests; nobody can send or name them again before the transaction ends.
    """
    unlinked = (
        blobs.c.used_at < before,
        ~exists().where(blob_links.c.digest == blobs.c.digest),
        ~exists().where(manifest_entries.c.digest == blobs.c.digest),
        ~exists().where(artifacts.c.digest == blobs.c.digest),
    )
    candidates = select(blobs.c.digest).where(*unlinked).order_by(blobs.c.digest).limit(limit)
    locked = list((await tx.session.execute(candidates.with_for_update(skip_locked=True))).scalars())
    gone = await tx.session.execute(
        delete(blobs).where(blobs.c.digest.in_(locked), *unlinked).returning(blobs.c.digest)
    )
    return sorted(gone.scalars())
