"""A service's database with the tables that every service has, and none of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from clave_common.database import Database, service_metadata
from sqlalchemy import create_engine

Kind = TypeVar("Kind", bound=Database)
SERVICE = "registry"


@asynccontextmanager
async def bare_database(url: str, kind: type[Kind]) -> AsyncIterator[Kind]:
    """Make the tables at a fresh URL, and open them as a kind of database for as long as it is needed."""
    metadata = service_metadata(SERVICE)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    metadata.create_all(engine)
    engine.dispose()
    opened = kind(url, metadata, service=SERVICE)
    try:
        yield opened
    finally:
        await opened.close()
