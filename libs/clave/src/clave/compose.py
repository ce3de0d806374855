"""What the containers of ``deploy/compose`` run: make the secrets, migrate, start one service.

    python -m clave.compose init --port 47310    before everything: secrets, and the configurations made of them
    python -m clave.compose migrate              database, roles, schemas, every service's migrations
    python -m clave.compose serve registry       read the secrets into the service's variables and become it

The volume with the secrets is the stack's trust: whoever reads it is the stack, so `init` and `migrate` alone mount it.
Every other container mounts a volume with its own share (`clave.stack.shares`) in the same place. Passwords come out of
files here and go into the environment of the one process that needs them; nothing secret stands in the compose file.
"""

import argparse
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg

from clave.stack.certificates import Certificate, ensure_certificate, names_of, own_certificate
from clave.stack.edge import CLUSTERS, Edge, Upstream, as_domain, render_edge
from clave.stack.layout import SERVICES
from clave.stack.postgres import DATABASE, SUPERUSER, create_roles_and_schemas
from clave.stack.secrets import EDGE_KEY, Passwords, ensure_secrets, read_passwords, write_secret
from clave.stack.shares import CONTAINERS, hand_out
from clave.stack.valkey_users import user_lines

SECRETS = Path("/run/clave")
SHARES = Path("/run/shares")
EDGE = Path("/run/edge")
STATE = Path("/var/lib/clave")
CLAVE_UID = 10001
PORTS = {service: 47321 + number for number, service in enumerate(SERVICES)}
GRPC_PORT = 47327
_PUBLIC_PORT_INSIDE = 47310
_OPA_AUTHORIZATION = """# Written by `clave.compose init`: anybody in the network may ask, only the gateway may change.
package system.authz

import rego.v1

default allow := false

allow if input.path[0] == "health"

allow if {
\tinput.method == "POST"
\tinput.path in [["v1", "data", "clave", "authz", "decision"], ["v1", "data", "clave", "filters", "visible"]]
}

allow if input.identity == "%s"
"""


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m clave.compose", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("--port", type=int, default=_PUBLIC_PORT_INSIDE)
    commands.add_parser("migrate")
    commands.add_parser("serve").add_argument("program", choices=[*SERVICES, "worker"])
    asked = parser.parse_args()
    if asked.command == "init":
        initialise(public_port=asked.port)
    elif asked.command == "migrate":
        migrate()
    else:
        serve(asked.program)


def initialise(*, public_port: int) -> None:
    """Make every secret that is missing, render the configurations, hand the volumes to the containers' user."""
    SECRETS.mkdir(exist_ok=True)
    passwords = ensure_secrets(SECRETS, SERVICES)
    for name in ("postgres", "redis", "opa", "admin"):
        (SECRETS / name).mkdir(mode=0o700, exist_ok=True)
    write_secret(SECRETS / "postgres" / "password", passwords.postgres)
    write_secret(SECRETS / "redis" / "password", passwords.valkey)
    write_secret(SECRETS / "redis" / "redis.conf", redis_configuration(passwords))
    token = SECRETS / "opa" / "token"
    if not token.exists():
        write_secret(token, secrets.token_hex(32))
    write_secret(SECRETS / "opa" / "authz.rego", _OPA_AUTHORIZATION % token.read_text())
    hand_certificates_to_edge(os.environ)
    write_secret(EDGE / "envoy.yaml", edge_configuration(public_port, os.environ))
    hand_out(SECRETS, SHARES, passwords)
    for folder in (SECRETS, *(SHARES / name for name in CONTAINERS), EDGE, Path("/data/redis"), Path("/data/state")):
        _hand_over(folder)


def redis_configuration(passwords: Passwords) -> str:
    """Redis keeps every write, evicts nothing, and knows the users of `valkey_users` and no other."""
    lines = (
        "bind 0.0.0.0",
        *user_lines(passwords.by_valkey_user),
        "dir /data",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory 512mb",
        "maxmemory-policy noeviction",
    )
    return "\n".join(lines) + "\n"


def hand_certificates_to_edge(asked: Mapping[str, str]) -> None:
    """Put what the edge shows into its volume; it reads no other.

    ``CLAVE_TLS=1`` asks for a generated certificate, ``CLAVE_TLS_CERT`` and ``CLAVE_TLS_KEY`` (their text, PEM) bring
    one; ``CLAVE_MTLS=1`` makes the hops behind the edge mutual. ``CLAVE_TLS_HOSTS`` adds names, separated by commas.
    """
    folder = EDGE / "tls"
    folder.mkdir(mode=0o700, exist_ok=True)
    if asked.get("CLAVE_TLS_CERT"):
        write_secret(folder / "public.pem", asked["CLAVE_TLS_CERT"])
        write_secret(folder / "public.key", asked.get("CLAVE_TLS_KEY", ""))
        own_certificate(folder / "public.pem", folder / "public.key")
    elif is_on(asked, "CLAVE_TLS"):
        made = ensure_certificate(SECRETS / "tls" / "public", "edge", hosts=public_hosts(asked))
        _copy(made, folder, "public")
        (folder / "public-ca.pem").write_text((made.authority or made.certificate).read_text())
    if is_on(asked, "CLAVE_MTLS"):
        services = SECRETS / "tls" / "services"
        for name in (*SERVICES, "stack"):
            ensure_certificate(services, name, hosts=(name, "localhost", "127.0.0.1"), client=True)
        _copy(ensure_certificate(services, "edge", hosts=("edge",), client=True), folder, "inner")
        write_secret(folder / "inner-ca.pem", (services / "ca.pem").read_text())


def _copy(made: Certificate, folder: Path, name: str) -> None:
    write_secret(folder / f"{name}.pem", made.certificate.read_text())
    write_secret(folder / f"{name}.key", made.key.read_text())


def is_on(asked: Mapping[str, str], name: str) -> bool:
    """Read a switch of the environment."""
    return asked.get(name, "").lower() in {"1", "true", "yes"}


def public_hosts(asked: Mapping[str, str]) -> tuple[str, ...]:
    """Names under which callers know the edge."""
    named = [host.strip() for host in asked.get("CLAVE_TLS_HOSTS", "").split(",")]
    return ("localhost", "127.0.0.1", "edge", *filter(None, named))


def edge_configuration(public_port: int, asked: Mapping[str, str]) -> str:
    """Render Envoy's configuration for the containers' names; `public_port` is what callers put into Host."""
    ports = {**PORTS, "inference_grpc": GRPC_PORT}
    upstreams = {name: Upstream(host=name.removesuffix("_grpc"), port=ports[name]) for name in CLUSTERS}
    tls = EDGE / "tls"
    public = Certificate(tls / "public.pem", tls / "public.key", None)
    own_names = map(as_domain, names_of(public.certificate)) if asked.get("CLAVE_TLS_CERT") else ()
    hosts = tuple(dict.fromkeys((*public_hosts(asked), *own_names)))
    domains = (*(f"{host}:{public_port}" for host in hosts), *hosts)
    inner = Certificate(tls / "inner.pem", tls / "inner.key", tls / "inner-ca.pem")
    return render_edge(
        Edge(
            listen_host="0.0.0.0",  # noqa: S104 - inside the container; the host publishes it on loopback
            listen_port=_PUBLIC_PORT_INSIDE,
            domains=domains,
            admin_socket="/tmp/envoy-admin.sock",  # noqa: S108 - the container's own tmpfs
            upstreams=upstreams,
            proof=(SECRETS / EDGE_KEY).read_text().strip(),
            certificate=public if asked.get("CLAVE_TLS_CERT") or is_on(asked, "CLAVE_TLS") else None,
            inner_certificate=inner if is_on(asked, "CLAVE_MTLS") else None,
        )
    )


def migrate() -> None:
    """Make the database, the roles and the schemas, then run every service's migrations."""
    passwords = read_passwords(SECRETS)

    def superuser(database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="postgres", user=SUPERUSER, password=passwords.postgres, dbname=database, autocommit=True
        )

    create_roles_and_schemas(superuser, passwords.roles)
    for service in SERVICES:
        subprocess.run(
            [sys.executable, "-m", f"clave_{service}", "migrate"], env=environment(service), check=True, timeout=300
        )


def serve(program: str) -> None:
    """Become a service or the worker."""
    service, verb = ("trainer", "worker") if program == "worker" else (program, "serve")
    variables = environment(service)
    Path(variables[f"CLAVE_{service.upper()}_DATA_DIR"]).mkdir(parents=True, exist_ok=True)
    os.execve(sys.executable, [sys.executable, "-m", f"clave_{service}", verb], variables)  # noqa: S606 - our own program


def environment(service: str) -> dict[str, str]:
    """The variables of one service: the same names that the embedded stack sets."""
    passwords = read_passwords(SECRETS)
    prefix = f"CLAVE_{service.upper()}_"
    own = {
        "HTTP_HOST": "0.0.0.0",  # noqa: S104 - inside the internal network only
        "HTTP_PORT": str(PORTS[service]),
        "DATABASE_URL": f"postgresql://clave_{service}:{passwords.roles[service]}@postgres:5432/{DATABASE}",
        "REDIS_URL": f"redis://{service}:{passwords.valkey_users[service]}@redis:6379/0",
        "DATA_DIR": str(STATE / service),
        "SECRETS_DIR": str(SECRETS),
        "BLOB_URL": (STATE / "blobs" / service).as_uri(),
        "GRPC_HOST": "0.0.0.0",  # noqa: S104 - inside the internal network only
        "GRPC_PORT": str(GRPC_PORT),
        "ADMIN_KEY_FILE": str(SECRETS / "admin" / "admin.key"),
        "OPA_TOKEN_FILE": str(SECRETS / "opa" / "token"),
    }
    shared = {}
    if is_on(os.environ, "CLAVE_MTLS"):
        shared = {f"CLAVE_{peer.upper()}_URL": f"https://{peer}:{PORTS[peer]}" for peer in SERVICES}
        shared["CLAVE_TLS_DIR"] = str(SECRETS / "tls" / "services")
    return {**os.environ, **shared, **{prefix + name: value for name, value in own.items()}}


def _hand_over(folder: Path) -> None:
    if os.geteuid() != 0 or not folder.is_dir():
        return
    for top, _, files in os.walk(folder):
        os.chown(top, CLAVE_UID, CLAVE_UID)
        for name in files:
            os.chown(Path(top) / name, CLAVE_UID, CLAVE_UID, follow_symlinks=False)


if __name__ == "__main__":
    main()
