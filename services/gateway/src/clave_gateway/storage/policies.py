"""Queries on policy bundles."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from clave_gateway.storage.tables import policy_bundles


@dataclass(frozen=True, slots=True)
class BundleRow:
    """One version of modules and data.

    Attributes:
        origin: ``shipped`` with this release, or ``uploaded``.
        signature: The gateway's over the digest, base64.
        plan: What planning found, None before it was planned.
    """

    version: int
    digest: str
    modules: dict[str, str]
    data: dict[str, Any]
    origin: str
    note: str
    signature: str
    plan: dict[str, Any] | None
    created_by: str
    created_at: datetime
    activated_by: str | None
    activated_at: datetime | None


async def add_bundle(session: AsyncConnection, **fields: Any) -> int:
    """Add a bundle; returns its version."""
    result = await session.execute(insert(policy_bundles).values(**fields).returning(policy_bundles.c.version))
    return int(result.scalar_one())


async def find_bundle(session: AsyncConnection, version: int) -> BundleRow | None:
    """Find a bundle."""
    row = (await session.execute(select(policy_bundles).where(policy_bundles.c.version == version))).one_or_none()
    return BundleRow(**row._asdict()) if row else None


async def find_bundle_by_digest(session: AsyncConnection, digest: str) -> BundleRow | None:
    """Find the newest bundle of a digest."""
    query = (
        select(policy_bundles)
        .where(policy_bundles.c.digest == digest)
        .order_by(policy_bundles.c.version.desc())
        .limit(1)
    )
    row = (await session.execute(query)).one_or_none()
    return BundleRow(**row._asdict()) if row else None


async def list_bundles(session: AsyncConnection, *, limit: int) -> list[BundleRow]:
    """List bundles, newest first."""
    query = select(policy_bundles).order_by(policy_bundles.c.version.desc()).limit(limit)
    return [BundleRow(**row._asdict()) for row in await session.execute(query)]


async def keep_plan(session: AsyncConnection, version: int, plan: dict[str, Any]) -> None:
    """Keep what planning found."""
    await session.execute(update(policy_bundles).where(policy_bundles.c.version == version).values(plan=plan))


async def note_activation(session: AsyncConnection, version: int, *, by: str, at: datetime) -> None:
    """Record who put a bundle in force, and when."""
    await session.execute(
        update(policy_bundles).where(policy_bundles.c.version == version).values(activated_by=by, activated_at=at)
    )
