"""The process supervisor: supervisord's configuration, its start, and what we ask it over its socket.

Supervisord restarts whatever dies, waiting one second longer after each failed start, and never gives up. It rotates
the logs. Its control socket lies in a private folder and wants a generated password.
"""

import contextlib
import http.client
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from clave.failures import NotRunning, StartFailed
from clave.stack import processes
from clave.stack.layout import Layout
from clave.stack.programs import Program, write_specification
from clave.stack.secrets import Passwords, write_secret

_USER = "clave"
_LOG_BYTES_MAX = "5MB"
_LOG_BACKUPS = 2
_START_RETRIES = 1_000_000  # the wait grows by a second each time, so this is for ever
_START_TIMEOUT_S = 10.0
_FAULT_ALREADY_STARTED = 60
_FAULT_NOT_RUNNING = 70


@dataclass(frozen=True)
class ProgramState:
    """What supervisord knows of a program.

    Attributes:
        name: Its name.
        state: RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL or STOPPING.
        pid: Its process, 0 when there is none.
        uptime_s: Seconds since its last start, 0 when it does not run.
        reason: What went wrong at its last start, empty when nothing did.
    """

    name: str
    state: str
    pid: int
    uptime_s: int
    reason: str


def write_configuration(
    layout: Layout, programs: list[Program], passwords: Passwords, *, started: frozenset[str]
) -> None:
    """Write supervisord's configuration and the launcher's specification of every program.

    Args:
        layout: Where.
        programs: What to keep alive.
        passwords: Holds the control socket's password.
        started: Names of the programs that start together with supervisord itself.
    """
    sections = [_head(layout, passwords)]
    groups: dict[str, list[Program]] = {}
    for program in sorted(programs, key=lambda program: program.order):
        write_specification(layout, program)
        sections.append(_section(layout, program, autostart=program.name in started))
        if program.group:
            groups.setdefault(program.group, []).append(program)
    for group, members in groups.items():
        names = ",".join(member.name for member in members)
        sections.append(f"[group:{group}]\nprograms={names}\npriority={members[0].order}\n")
    write_secret(layout.run / "supervisord.conf", "\n".join(sections))


def _head(layout: Layout, passwords: Passwords) -> str:
    as_root = "user=root\n" if os.geteuid() == 0 else ""
    return (
        f"[unix_http_server]\nfile={_escape(str(layout.supervisor_socket))}\nchmod=0700\n"
        f"username={_USER}\npassword={passwords.supervisor}\n\n"
        f"[supervisord]\nnodaemon=true\nlogfile={_escape(str(layout.log('supervisor')))}\n"
        f"logfile_maxbytes={_LOG_BYTES_MAX}\nlogfile_backups={_LOG_BACKUPS}\nloglevel=info\n"
        f"pidfile={_escape(str(layout.run / 'supervisord.pid'))}\n"
        f"childlogdir={_escape(str(layout.logs))}\nstrip_ansi=true\n{as_root}\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
    )


def _section(layout: Layout, program: Program, *, autostart: bool) -> str:
    specification = layout.programs / f"{program.name}.json"
    command = shlex.join([sys.executable, "-m", "clave.stack.launcher", str(specification)])
    return (
        f"[program:{program.name}]\ncommand={_escape(command)}\n"
        f"autostart={str(autostart).lower()}\nautorestart=true\n"
        f"startsecs={program.start_s}\nstartretries={_START_RETRIES}\npriority={program.order}\n"
        f"stopsignal={program.stop_signal}\nstopwaitsecs={program.stop_wait_s}\nkillasgroup=true\n"
        f"redirect_stderr=true\nstdout_logfile={_escape(str(layout.log(program.name)))}\n"
        f"stdout_logfile_maxbytes={_LOG_BYTES_MAX}\nstdout_logfile_backups={_LOG_BACKUPS}\n"
    )


def _escape(value: str) -> str:
    """Protect a value from supervisord's %-expansion and comments."""
    return value.replace("%", "%%")


def launch(layout: Layout) -> subprocess.Popen[bytes]:
    """Start supervisord in a session of its own, so that Ctrl-C in the terminal does not reach it."""
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        processes.MARK: layout.stack_id,
        processes.PROGRAM_MARK: "supervisor",
    }
    with layout.log("supervisor-start").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(layout.run / "supervisord.conf")],
            cwd=layout.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


class Supervisor:
    """A conversation with a running supervisord.

    Args:
        layout: Which stack.
        passwords: Holds the control socket's password.
    """

    def __init__(self, layout: Layout, passwords: Passwords) -> None:
        self._layout = layout
        self._password = passwords.supervisor

    def _ask(self, method: str, *arguments: object) -> Any:
        # A connection of its own for each call: one that failed halfway cannot be used again.
        transport = SupervisorTransport(_USER, self._password, f"unix://{self._layout.supervisor_socket}")
        try:
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport, allow_none=True)
            return getattr(proxy.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException) as error:
            raise NotRunning("The stack is not running.", remedy="Start it with `clave up`.") from error
        finally:
            transport.close()

    def is_running(self) -> bool:
        """Say whether supervisord answers and is not on its way out."""
        try:
            return bool(self._ask("getState")["statename"] == "RUNNING")
        except (NotRunning, xmlrpc.client.Error):
            return False

    def await_running(self, started: subprocess.Popen[bytes]) -> None:
        """Wait until a supervisord that was just launched answers.

        Raises:
            StartFailed: It ended, or did not answer in time.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self.is_running():
            if started.poll() is not None or time.monotonic() > deadline:
                log = self._layout.log("supervisor-start")
                raise StartFailed("The process supervisor did not start.", log=log.read_text().splitlines()[-20:])
            time.sleep(0.05)

    def states(self) -> dict[str, ProgramState]:
        """List every program's state by its name.

        Raises:
            NotRunning: Supervisord does not answer.
        """
        found = self._ask("getAllProcessInfo")
        return {info["name"]: _state(info) for info in found}

    def start(self, name: str, *, group: str = "") -> None:
        """Start a program and return at once; starting a running one is fine."""
        with _tolerate(_FAULT_ALREADY_STARTED):
            self._ask("startProcess", _full_name(name, group), False)

    def restart(self, name: str, *, group: str = "") -> None:
        """Stop a program, wait until it has stopped, and start it."""
        with _tolerate(_FAULT_NOT_RUNNING):
            self._ask("stopProcess", _full_name(name, group), True)
        self.start(name, group=group)

    def shut_down(self) -> None:
        """Ask supervisord to stop everything and itself; returns at once."""
        with contextlib.suppress(NotRunning, xmlrpc.client.Error):
            self._ask("shutdown")


def _full_name(name: str, group: str) -> str:
    return f"{group}:{name}" if group else name


def _state(info: dict[str, Any]) -> ProgramState:
    running = info["statename"] == "RUNNING"
    return ProgramState(
        name=info["name"],
        state=info["statename"],
        pid=int(info["pid"]),
        uptime_s=max(0, int(info["now"]) - int(info["start"])) if running else 0,
        reason=str(info["spawnerr"] or ""),
    )


@contextlib.contextmanager
def _tolerate(fault_code: int) -> Iterator[None]:
    try:
        yield
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != fault_code:
            raise
