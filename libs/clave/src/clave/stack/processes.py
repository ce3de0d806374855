"""Find the processes of one stack, and end them.

Every process of a stack carries ``CLAVE_STACK_ID`` in its environment, and every descendant inherits it. We look it
up in /proc and so find what a hard kill left behind, whoever its parent is now; nobody else's process carries our id.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "CLAVE_STACK_ID"
PROGRAM_MARK = "CLAVE_STACK_PROGRAM"
_POLL_S = 0.1


@dataclass(frozen=True)
class StackProcess:
    """One process that belongs to a stack.

    Attributes:
        pid: Its id.
        program: Name of the stack's program, such as ``registry``; ``supervisor`` for the supervisor.
        command: Its command line, at most 120 characters.
    """

    pid: int
    program: str
    command: str


def parse_environment(raw: bytes) -> dict[str, str]:
    """Split the content of ``/proc/PID/environ``."""
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if b"=" in entry)
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, _, value in pairs}


def find_processes(stack_id: str, *, proc: Path = Path("/proc")) -> list[StackProcess]:
    """List the living processes of a stack, this one excepted, oldest id first."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            raw = (entry / "environ").read_bytes()
            if stack_id.encode() not in raw:
                continue
            environment = parse_environment(raw)
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue  # somebody else's, or gone meanwhile
        if environment.get(MARK) == stack_id and command:  # a zombie has an empty command line
            program = environment.get(PROGRAM_MARK, "supervisor")
            found.append(StackProcess(pid=int(entry.name), program=program, command=command[:120]))
    return sorted(found, key=lambda process: process.pid)


def end_processes(stack_id: str, *, grace_s: float = 10.0, spare: frozenset[int] = frozenset()) -> list[StackProcess]:
    """End what is left of a stack: politely first, then for good.

    Postgres is asked with SIGINT (its fast shutdown), everything else with SIGTERM.

    Args:
        stack_id: Which stack.
        grace_s: Seconds to wait before SIGKILL.
        spare: Ids that must live.

    Returns:
        What was found at first.
    """
    found = [process for process in find_processes(stack_id) if process.pid not in spare]
    for process in found:
        _send(process.pid, signal.SIGINT if process.program == "postgres" else signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    remaining = found
    while remaining and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        remaining = [process for process in find_processes(stack_id) if process.pid not in spare]
    for process in remaining:
        _send(process.pid, signal.SIGKILL)
    while remaining and time.monotonic() < deadline + grace_s:
        time.sleep(_POLL_S)
        remaining = [process for process in find_processes(stack_id) if process.pid not in spare]
    return found


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def memory_bytes(pid: int, *, descendants: bool = True) -> int:
    """Measure a process and its descendants: proportional set size, so that shared pages count once.

    Args:
        pid: The process.
        descendants: Whether its children and theirs count as well.

    Returns:
        Bytes; 0 when the process is gone. Where the kernel hides the proportional size, the resident size.
    """
    try:
        process = psutil.Process(pid)
        family = [process, *(process.children(recursive=True) if descendants else [])]
    except psutil.NoSuchProcess:
        return 0
    return sum(_proportional_bytes(member.pid) for member in family)


def _proportional_bytes(pid: int, *, proc: Path = Path("/proc")) -> int:
    try:
        for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return int(psutil.Process(pid).memory_info().rss)
    except (FileNotFoundError, ProcessLookupError, PermissionError, psutil.NoSuchProcess):
        return 0


def uptime_s(pid: int) -> int:
    """Seconds since a process began; 0 when it is gone."""
    try:
        return max(0, int(time.time() - psutil.Process(pid).create_time()))
    except psutil.NoSuchProcess:
        return 0
