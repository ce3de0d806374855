"""Postgres for one service: its own schema, its own role, and transactions opened in plain sight.

Only this module commits. Inside a transaction an operation also writes its events and its audit entries: rows of the
service's outbox, relayed afterwards by `clave_common.outbox`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import psycopg
from clave_contracts.events import AUDIT_STREAM, AuditEntry, Event, event_stream
from psycopg.rows import DictRow
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
    event,
    func,
    text,
)
from sqlalchemy.exc import DataError, DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from clave_common.attribution import attributed
from clave_common.errors import InvalidArgument, Unavailable
from clave_common.statements import StatementLane, hung_up
from clave_common.watched_connection import WatchedConnection

# Writers that queue for a row lock hold connections; whoever waits behind them waits as long as a statement may.
_POOL_WAIT_S = 30
_CONNECT_S = 5
# psycopg prepares what is asked often, and Postgres then likes to plan it once for any value. A search is over a model
# of three versions or of thirty thousand, and over a tag that all have or none: one plan for both sorts what an index
# holds in order. Planning costs a tenth of a millisecond.
_PLAN_EACH_TIME = "-c plan_cache_mode=force_custom_plan"
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
    """One operation's transaction: its session, and the rows that tell others what happened.

    Attributes:
        session: Where SQLAlchemy Core's statements run.
    """

    def __init__(self, session: AsyncConnection, metadata: MetaData, service: str) -> None:
        self.session = session
        self._outbox = f"{metadata.schema}.outbox"
        self._consumed = metadata.tables[f"{metadata.schema}.consumed_events"]
        self._service = service
        self._told: list[tuple[str, str, str]] = []
        self._rang = False

    async def emit(self, event: Event) -> None:
        """Write an event that is relayed to the service's stream once the transaction has committed."""
        self._tell(event_stream(self._service), event.id, event.model_dump_json())

    async def audit(self, entry: AuditEntry) -> None:
        """Write an audit entry that reaches the gateway's log once the transaction has committed."""
        self._tell(AUDIT_STREAM, entry.id, attributed(entry).model_dump_json())

    def audit_signed(self, entry_id: str, body: str) -> None:
        """Write an audit entry that another service made and signed; it reaches the log as it is."""
        self._tell(AUDIT_STREAM, entry_id, body)

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

    def _tell(self, stream: str, identifier: str, body: str) -> None:
        self._told.append((stream, identifier, body))

    def has_told(self) -> None:
        """Note that a statement of the operation wrote to the outbox itself."""
        self._rang = True

    async def write_told(self) -> bool:
        """Write what is told, in one statement, as the last one before the commit; False where nothing is."""
        if not self._told:
            return self._rang
        streams, ids, bodies = zip(*self._told, strict=True)
        statement = text(
            f"insert into {self._outbox} (stream, id, body) "  # noqa: S608 - own table
            "select stream, id, convert_to(body, 'UTF8') from unnest("
            "cast(:streams as text[]), cast(:ids as text[]), cast(:bodies as text[])) as told (stream, id, body)"
        )
        await self.session.execute(statement, {"streams": list(streams), "ids": list(ids), "bodies": list(bodies)})
        return True


class Database:
    """Two small pools of connections as the service's own role: for transactions, and for single statements.

    Attributes:
        service: Whose database this is.
        outbox_filled: Set when a transaction of this process committed rows for the outbox's relay.
    """

    def __init__(self, url: str, metadata: MetaData, *, service: str, connections_max: int = 5) -> None:
        self.metadata = metadata
        self.outbox_filled = asyncio.Event()
        self.service = service
        options = f"-c search_path={metadata.schema} -c statement_timeout=30000 -c timezone=UTC"
        self.engine = _engine(url, connections_max=connections_max, options=options)
        arguments = {**connect_arguments(url), "connect_timeout": _CONNECT_S, "options": options}
        self._lane = StatementLane(arguments, connections_max=connections_max)

    async def run(self, statement: str, facts: Mapping[str, Any], *, tells: bool = False) -> list[DictRow]:
        """Run one statement as a transaction of its own (see `clave_common.statements`).

        Args:
            statement: SQL with ``%(name)s`` parameters.
            facts: The parameters by name.
            tells: It writes rows for the outbox's relay.

        Returns:
            Its rows by column name.

        Raises:
            Unavailable: Postgres cannot be reached.
            InvalidArgument: A value has no place in its column.
        """
        with _refusing():
            rows = await self._lane.run(statement, facts)
        if tells:
            self.outbox_filled.set()
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Open the transaction of one operation; it commits when the block ends and rolls back on any error.

        Raises:
            Unavailable: Postgres cannot be reached.
            InvalidArgument: A value has no place in its column, for example text with a NUL character.
        """
        with _refusing():
            async with self.engine.begin() as session:
                transaction = Transaction(session, self.metadata, self.service)
                yield transaction
                told = await transaction.write_told()
            if told:
                self.outbox_filled.set()

    async def ping(self) -> None:
        """Raise Unavailable unless Postgres answers."""
        await self.run("select 1", {})

    async def close(self) -> None:
        """Give every connection back."""
        await self._lane.close()
        await self.engine.dispose()


def _engine(url: str, *, connections_max: int, options: str) -> AsyncEngine:
    engine = create_async_engine(
        sqlalchemy_url(url),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections_max,
        max_overflow=0,
        pool_timeout=_POOL_WAIT_S,
        pool_reset_on_return=None,  # every connection comes back from a block that committed or rolled back
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={
            "connect_timeout": _CONNECT_S,
            "options": f"{options} {_PLAN_EACH_TIME}",
            "async_creator_fn": WatchedConnection.connect,
        },
    )
    event.listen(engine.sync_engine, "checkout", _require_alive)
    return engine


def _require_alive(connection: Any, _record: object, _proxy: object) -> None:
    """Let the pool replace a connection that the server closed while it was at rest."""
    if hung_up(connection.driver_connection):
        raise DisconnectionError


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what the drivers raise into refusals that a caller understands."""
    try:
        yield
    except (DataError, psycopg.DataError) as error:
        raise InvalidArgument(
            "A value cannot be stored: text with a NUL character, or a number out of range.",
            code="value_not_storable",
        ) from error
    except (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
        raise database_unavailable() from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise database_unavailable() from error
        raise


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
