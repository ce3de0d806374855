"""Ask a program of the stack whether it is ready, and what it waits for if not."""

import http.client
import json
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clave.stack import postgres
from clave.stack.layout import Layout
from clave.stack.options import read_options
from clave.stack.ports import PortPlan
from clave.stack.secrets import OPERATOR, Passwords

_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Health:
    """What a program said about itself.

    Attributes:
        ready: Whether it does its work.
        waits_for: What is missing, empty when it is ready.
    """

    ready: bool
    waits_for: str = ""


def check(name: str, layout: Layout, ports: PortPlan, passwords: Passwords) -> Health:
    """Ask one program.

    Args:
        name: ``postgres``, ``valkey``, ``edge`` or a service; others are taken to be ready while they run.
        layout: Where the sockets are.
        ports: Where the services listen.
        passwords: For Postgres and Valkey.
    """
    if name == "postgres":
        accepting = postgres.is_accepting(layout, password=passwords.postgres)
        return Health(ready=accepting, waits_for="" if accepting else "its own start")
    if name == "valkey":
        return _check_valkey(layout, passwords.valkey)
    options = read_options(layout)
    if name == "edge":
        return check_http(ports.public, "/healthz", tls=_own_listener() if options.tls else None)
    if name in ports.services:
        tls = _member(layout) if options.mutual_tls else None
        return check_http(ports.services[name], "/v2/health/ready", tls=tls)
    return Health(ready=True)


def check_all(names: list[str], layout: Layout, ports: PortPlan, passwords: Passwords) -> dict[str, Health]:
    """Ask several programs at the same time."""
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        answers = pool.map(lambda name: check(name, layout, ports, passwords), names)
        return dict(zip(names, answers, strict=True))


def _own_listener() -> ssl.SSLContext:
    """Speak TLS to our own port without judging its certificate: it may be for any name, and we tell nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _member(layout: Layout) -> ssl.SSLContext:
    """Speak to services as one of the stack."""
    folder = layout.tls / "services"
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "stack.pem", folder / "stack.key")
    return context


def check_http(port: int, path: str, *, tls: ssl.SSLContext | None = None) -> Health:
    """Ask a readiness route on loopback."""
    connection: http.client.HTTPConnection
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=_TIMEOUT_S, context=tls)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return Health(ready=False, waits_for=f"its port ({type(error).__name__})")
    finally:
        connection.close()
    if answer.status == http.client.OK:
        return Health(ready=True)
    return Health(ready=False, waits_for=_missing(answer.status, body))


def _missing(status: int, body: bytes) -> str:
    """Read from a 503 what the service lacks: `missing` where it is listed, else the problem's detail."""
    try:
        content = json.loads(body)
    except json.JSONDecodeError:
        return f"HTTP {status}"
    if not isinstance(content, dict):
        return f"HTTP {status}"
    missing = content.get("missing")
    if isinstance(missing, dict):
        return "; ".join(f"{name}: {why}" for name, why in missing.items())
    return str(missing or content.get("detail") or content.get("error") or f"HTTP {status}")


def _check_valkey(layout: Layout, password: str) -> Health:
    """Speak four words of the Redis protocol; a client library would be the only use of it here."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(layout.valkey_socket))
            connection.sendall(f"AUTH {OPERATOR} {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:  # noqa: PLR2004 - one line for each command
                part = connection.recv(256)
                if not part:
                    break
                answer += part
    except OSError as error:
        return Health(ready=False, waits_for=f"its socket ({error.strerror or type(error).__name__})")
    if answer.endswith(b"+PONG\r\n"):
        return Health(ready=True)
    return Health(ready=False, waits_for=answer.decode(errors="replace").strip()[:100] or "its own start")
