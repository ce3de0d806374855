"""Which TCP ports the stack uses, and who holds a port that is taken.

The public port is 47310 unless told otherwise; the services take loopback ports of 27320 to 27819, each stack from a
place of its own in that range, so that stacks that start at the same moment do not race for the same ones. That range
lies below the ports that Linux gives to outgoing connections (32768 to 60999): a service that restarts never finds
its port held by somebody's connection. A choice is recorded and used again at the next start while it is free:
addresses stay the same across restarts.
Ports 3000, 5000, 8000, 8080 and 9000 are never chosen: other developers' tools live there.
"""

import json
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from clave.failures import EnvironmentFailure

PUBLIC_PORT = 47310
SERVICE_PORTS = range(27320, 27820)
_PUBLIC_FALLBACK = range(27820, 27920)
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class PortPlan:
    """The ports of one start.

    Attributes:
        public: The one public port: REST and gRPC.
        services: Port for each name, such as ``registry`` or ``inference.grpc``.
        moved_from: The wanted public port that was taken, None when the wanted one was free.
        holder: Who holds `moved_from`, as far as this user may know.
    """

    public: int
    services: dict[str, int]
    moved_from: int | None = None
    holder: str = ""


def is_free(port: int) -> bool:
    """Say whether a server could listen on the loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
        return True


class Reservations:
    """Keeps the chosen ports from other stacks that start at the same moment.

    Nobody listens on a port between its choice and its server's start, and servers that share their port
    (``SO_REUSEPORT``: the edge, several workers) would not even fail but answer for each other's stack. What is held is
    the name of an abstract unix socket: such names live in a network namespace, as ports do, and go with their process.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self._held:
            name.close()

    def take(self, port: int) -> bool:
        """Reserve a port; False when somebody listens there or another start has it."""
        name = _reserved(port)
        if name is None:
            return False
        if not is_free(port):
            name.close()
            return False
        self._held.append(name)
        return True


def _reserved(port: int) -> socket.socket | None:
    name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        name.bind(f"\0clave-port-{port}")
    except OSError:
        name.close()
        return None
    return name


def holder_of(port: int) -> str:
    """Name the process that listens on a port, such as ``nginx (pid 812)``.

    Returns:
        The process's name and id, or a sentence saying that it belongs to another user or to a stack that is starting.
    """
    if (name := _reserved(port)) is None:
        return "another stack that is starting"
    name.close()
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status != psutil.CONN_LISTEN or not connection.laddr or connection.laddr.port != port:
            continue
        if connection.pid is None:
            break
        try:
            return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
        except psutil.NoSuchProcess:
            break
    return "a process of another user"


def plan_ports(
    *,
    explicit: int | None,
    names: Iterable[str],
    record: Path,
    seed: int = 0,
    take: Callable[[int], bool] = is_free,
) -> PortPlan:
    """Choose the ports of a start.

    Args:
        explicit: The public port the user asked for by name; None leaves the choice to clave.
        names: What needs a loopback port.
        record: File with the choice of the last start; missing is fine.
        seed: Where in the ranges to begin; the same for the same stack.
        take: Says whether a port may be used, and keeps it.

    Raises:
        EnvironmentFailure: The explicit port is taken, or no port is free.
    """
    last: dict[str, int] = _read(record)
    wanted = explicit if explicit is not None else last.get("public", PUBLIC_PORT)
    public, moved_from, holder = wanted, None, ""
    if not take(wanted):
        holder = holder_of(wanted)
        if explicit is not None:
            raise EnvironmentFailure(
                f"Port {explicit} is taken by {holder}.",
                remedy="Give another one with --port N, or leave --port out: clave then takes a free one.",
            )
        public, moved_from = _first_free(_PUBLIC_FALLBACK, taken=set(), seed=seed, take=take), wanted
    taken = {public}
    services: dict[str, int] = {}
    for name in names:
        before = last.get(name)
        reusable = before is not None and before not in taken and take(before)
        if before is not None and reusable:
            port = before
        else:
            port = _first_free(SERVICE_PORTS, taken=taken, seed=seed, take=take)
        services[name] = port
        taken.add(port)
    return PortPlan(public=public, services=services, moved_from=moved_from, holder=holder)


def record_ports(plan: PortPlan, record: Path) -> None:
    """Keep the choice for the next start."""
    record.write_text(json.dumps({"public": plan.public, **plan.services}, indent=2))


def read_ports(record: Path) -> PortPlan | None:
    """Read the recorded choice; None when there is none."""
    known = _read(record)
    if "public" not in known:
        return None
    return PortPlan(public=known["public"], services={k: v for k, v in known.items() if k != "public"})


def _read(record: Path) -> dict[str, int]:
    try:
        known: object = json.loads(record.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return {str(name): int(port) for name, port in known.items()} if isinstance(known, dict) else {}


def _first_free(candidates: range, *, taken: set[int], seed: int, take: Callable[[int], bool]) -> int:
    start = seed % len(candidates)
    for port in chain(candidates[start:], candidates[:start]):
        if port not in taken and take(port):
            return port
    raise EnvironmentFailure(
        "No port of clave's range (27320 to 27919) is free.",
        remedy="See who listens with `ss -ltnp`, or give a public port with --port N.",
    )
