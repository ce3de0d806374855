"""Postgres for one service: its own schema, its own role, and transactions opened in plain sight.

Only this module commits. Inside a transaction an operation also writes its events and its audit entries: rows of the
service's outbox, relayed afterwards by `clave_common.outbox`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
from clave_contracts.events import AUDIT_STREAM, AuditEntry, Event, event_stream
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from clave_common.clock import Clock, SystemClock
from clave_common.errors import InvalidArgument, Unavailable
from clave_common.watched_connection import WatchedConnection

# Writers that queue for a row lock hold connections; whoever waits behind them waits as long as a statement may.
_POOL_WAIT_S = 30
_NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def service_metadata(schema: str) -> MetaData:
    """Start a service's metadata: its schema, the naming convention and its outbox table."""
    metadata = MetaData(schema=schema, naming_convention=_NAMING)
    Table(
        "outbox",
        metadata,
        Column("seq", BigInteger, Identity(always=True), primary_key=True),
        Column("stream", Text, nullable=False),
        Column("id", Text, nullable=False, unique=True),
        Column("body", LargeBinary, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Index("ix_outbox_stream_seq", "stream", "seq"),
    )
    Table(
        "consumed_events",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("event_id", Text, primary_key=True),
        Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )
    Table(
        "idempotency_keys",
        metadata,
        Column("key", Text, primary_key=True),
        Column("fingerprint", Text, nullable=False),
        Column("status", BigInteger, nullable=True),
        Column("body", LargeBinary, nullable=True),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )
    return metadata


def sqlalchemy_url(url: str) -> str:
    """Name the psycopg driver in a plain ``postgresql://`` URL."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in {"postgresql", "postgres"} else url


class Transaction:
    """One operation's transaction: its session, and the rows that tell others what happened."""

    def __init__(self, session: AsyncSession, metadata: MetaData, service: str, clock: Clock) -> None:
        self.session = session
        self._outbox = metadata.tables[f"{metadata.schema}.outbox"]
        self._consumed = metadata.tables[f"{metadata.schema}.consumed_events"]
        self._service = service
        self._clock = clock
        self.told = False

    async def emit(self, event: Event) -> None:
        """Write an event that is relayed to the service's stream once the transaction has committed."""
        await self._write(event_stream(self._service), event.id, event.model_dump_json().encode())

    async def audit(self, entry: AuditEntry) -> None:
        """Write an audit entry that reaches the gateway's log once the transaction has committed."""
        await self._write(AUDIT_STREAM, entry.id, entry.model_dump_json().encode())

    async def first_time(self, consumer: str, event_id: str) -> bool:
        """Record that a consumer handles an event; False when it already has."""
        result = await self.session.execute(
            text(
                f"insert into {self._consumed.fullname} (consumer, event_id) values (:c, :e) "  # noqa: S608 - own table
                "on conflict do nothing returning 1"
            ),
            {"c": consumer, "e": event_id},
        )
        return result.first() is not None

    async def _write(self, stream: str, identifier: str, body: bytes) -> None:
        await self.session.execute(self._outbox.insert().values(stream=stream, id=identifier, body=body))
        self.told = True


class Database:
    """A pool of connections as the service's own role.

    Attributes:
        outbox_filled: Set when a transaction of this process committed rows for the outbox's relay.
    """

    def __init__(
        self,
        url: str,
        metadata: MetaData,
        *,
        service: str,
        connections_max: int = 5,
        clock: Clock | None = None,
    ) -> None:
        self.metadata = metadata
        self.outbox_filled = asyncio.Event()
        self._service = service
        self._clock = clock or SystemClock()
        self.engine = create_async_engine(
            sqlalchemy_url(url),
            poolclass=AsyncAdaptedQueuePool,
            pool_size=connections_max,
            max_overflow=0,
            pool_timeout=_POOL_WAIT_S,
            pool_pre_ping=True,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args={
                "connect_timeout": 5,
                "async_creator_fn": WatchedConnection.connect,
                "options": f"-c search_path={metadata.schema} -c statement_timeout=30000 -c timezone=UTC",
            },
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        at_once = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._readers = async_sessionmaker(at_once, expire_on_commit=False)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """Open a session whose queries each see what is committed at that moment.

        For operations that read with one query, or need no common view of several: it costs two round trips less than
        a transaction.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        async with self._opened(self._readers) as reader:
            yield reader

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Open the transaction of one operation; it commits when the block ends and rolls back on any error.

        Raises:
            Unavailable: Postgres cannot be reached.
            InvalidArgument: A value has no place in its column, for example text with a NUL character.
        """
        async with self._opened(self._sessions) as transaction:
            yield transaction

    @asynccontextmanager
    async def _opened(self, sessions: async_sessionmaker[AsyncSession]) -> AsyncIterator[Transaction]:
        try:
            async with sessions() as session:
                transaction = Transaction(session, self.metadata, self._service, self._clock)
                async with session.begin():
                    yield transaction
                if transaction.told:
                    self.outbox_filled.set()
        except DataError as error:
            raise InvalidArgument(
                "A value cannot be stored: text with a NUL character, or a number out of range.",
                code="value_not_storable",
            ) from error
        except (OperationalError, InterfaceError, TimeoutError) as error:
            raise database_unavailable() from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise database_unavailable() from error
            raise

    async def ping(self) -> None:
        """Raise Unavailable unless Postgres answers."""
        async with self.transaction() as tx:
            await tx.session.execute(text("select 1"))

    async def close(self) -> None:
        """Give every connection back."""
        await self.engine.dispose()


def database_unavailable() -> Unavailable:
    """Build the refusal that a caller sees while Postgres is away."""
    return Unavailable(
        "The database does not answer; nothing was changed. Try again shortly.",
        code="database_unavailable",
        retry_after_s=2.0,
    )


def connect_arguments(url: str) -> dict[str, Any]:
    """Split a ``postgresql://`` URL into psycopg's keyword arguments."""
    parts = urlsplit(url)
    arguments: dict[str, Any] = {"dbname": parts.path.lstrip("/"), **dict(parse_qsl(parts.query))}
    if parts.hostname:
        arguments["host"] = parts.hostname
    if parts.port:
        arguments["port"] = parts.port
    if parts.username:
        arguments["user"] = parts.username
    if parts.password:
        arguments["password"] = parts.password
    return arguments
