"""What `clave_common.migrations` does, with Alembic; imported only when somebody migrates."""

from importlib.resources import files
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, text
from sqlalchemy.engine import Engine

from clave_common.database import sqlalchemy_url

_LOCK_TIMEOUT = "5s"


def _engine(url: str, schema: str) -> Engine:
    return create_engine(
        sqlalchemy_url(url),
        connect_args={"options": f"-c search_path={schema} -c lock_timeout={_LOCK_TIMEOUT} -c timezone=UTC"},
    )


def _script(package: str) -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(files(package) / "migrations"))
    config.set_main_option("version_path_separator", "os")
    return ScriptDirectory.from_config(config)


def migrate(*, url: str, package: str, metadata: MetaData) -> list[str]:
    """Bring a service's schema to its newest revision; safe to run by several processes at once.

    Args:
        url: Connection as the service's own role, which owns the schema.
        package: Name of the service's package, for example ``clave_registry``.
        metadata: The service's tables; names the schema.

    Returns:
        The revisions in force afterwards.
    """
    schema = str(metadata.schema)
    script = _script(package)
    config = Config()
    config.set_main_option("script_location", str(files(package) / "migrations"))
    engine = _engine(url, schema)
    try:
        with engine.begin() as connection:
            connection.execute(text("select pg_advisory_xact_lock(hashtext(:s))"), {"s": f"migrate:{schema}"})
            _upgrade(connection, config, script, schema)
            return list(
                MigrationContext.configure(connection, opts={"version_table_schema": schema}).get_current_heads()
            )
    finally:
        engine.dispose()


def _upgrade(connection: Connection, config: Config, script: ScriptDirectory, schema: str) -> None:
    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("heads", revision)  # noqa: SLF001 - what alembic.command.upgrade does itself

    with EnvironmentContext(config, script, fn=steps, destination_rev="heads") as environment:
        environment.configure(
            connection=connection, target_metadata=None, version_table_schema=schema, transactional_ddl=True
        )
        environment.run_migrations()


def drift(*, url: str, metadata: MetaData) -> list[Any]:
    """List what differs between a migrated schema and the service's tables; empty when nothing does."""
    schema = str(metadata.schema)
    engine = create_engine(sqlalchemy_url(url))  # without the search_path, under which reflection drops schema names
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "version_table_schema": schema,
                    "include_schemas": True,
                    "include_name": lambda name, kind, _parents: kind != "schema" or name == schema,
                },
            )
            return list(compare_metadata(context, metadata))
    finally:
        engine.dispose()
