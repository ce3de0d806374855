"""Alembic for every service: one history each, inside the service's own schema.

A service keeps its revisions in ``clave_<service>/migrations/versions``; nothing else is needed. `migrate` brings the
schema to the newest revision, `drift` tells what the models have and the database lacks. Alembic itself (11 MB in each
process) is imported only by the process that migrates.
"""

import asyncio
from typing import Any

from sqlalchemy import MetaData


def migrate(*, url: str, package: str, metadata: MetaData) -> list[str]:
    """Bring a service's schema to its newest revision; safe to run by several processes at once.

    Args:
        url: Connection as the service's own role, which owns the schema.
        package: Name of the service's package, for example ``clave_registry``.
        metadata: The service's tables; names the schema.

    Returns:
        The revisions in force afterwards.
    """
    from clave_common import alembic_runner  # noqa: PLC0415 - see the module's text

    return alembic_runner.migrate(url=url, package=package, metadata=metadata)


def drift(*, url: str, metadata: MetaData) -> list[Any]:
    """List what differs between a migrated schema and the service's tables; empty when nothing does."""
    from clave_common import alembic_runner  # noqa: PLC0415 - see the module's text

    return alembic_runner.drift(url=url, metadata=metadata)


async def migrate_async(*, url: str, package: str, metadata: MetaData) -> list[str]:
    """`migrate` off the event loop."""
    return await asyncio.to_thread(migrate, url=url, package=package, metadata=metadata)
