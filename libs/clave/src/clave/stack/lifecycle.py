"""Start and stop the local stack.

`start` goes from nothing to healthy in a fixed order: leftovers, secrets, ports, Postgres and Valkey and Envoy,
database roles, migrations, services, health, connection.json. Every step may be repeated, so a start that was
interrupted anywhere is continued by the next one. `stop` leaves no process behind.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clave.failures import EnvironmentFailure, NotRunning, StartFailed, TimedOut
from clave.stack import health, local_edge, postgres, processes
from clave.stack.layout import SERVICES, Layout
from clave.stack.options import StackOptions, read_options, record_options
from clave.stack.ports import PortPlan, Reservations, plan_ports, read_ports, record_ports
from clave.stack.programs import (
    infrastructure,
    port_names,
    service_environment,
    service_programs,
    write_valkey_configuration,
)
from clave.stack.secrets import Passwords, ensure_secrets, read_passwords
from clave.stack.supervisor import Supervisor, launch, write_configuration

Tell = Callable[[str], None]
Running = tuple[Supervisor, Passwords, PortPlan]
_POLL_S = 0.1
_BACKOFF_S_MAX = 12.0
_INFRASTRUCTURE_TIMEOUT_S = 60.0
_MIGRATION_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 60.0
_LOG_LINES = 20
_WORD_S = 5.0  # nobody looks at a silent screen for longer


@dataclass(frozen=True)
class Started:
    """The outcome of `start`.

    Attributes:
        already_running: Whether there was nothing to do.
        ports: Where it listens.
        seconds: How long it took.
    """

    already_running: bool
    ports: PortPlan
    seconds: float


def start(
    layout: Layout,
    *,
    port: int | None,
    timeout_s: float,
    tell: Tell,
    services: tuple[str, ...] = SERVICES,
    options: StackOptions | None = None,
) -> Started:
    """Bring the stack up, or find it up.

    Args:
        layout: Where.
        port: The public port the user named; None leaves it to clave.
        timeout_s: Seconds until the services must be healthy.
        tell: Told each step in one line.
        services: Which services to run.
        options: How to run; as at the last start when None.

    Raises:
        EnvironmentFailure: This machine is in the way.
        StartFailed: A program does not start.
        TimedOut: A program is not healthy in time.
    """
    began = time.monotonic()
    layout.create()
    with _alone(layout), Reservations() as reserved:
        running = _running(layout)
        options = options or read_options(layout)
        if running is not None and not _is_half_started(running[0]):
            _adopt(layout, running, options, port=port, tell=tell)
            return _join(layout, running, services=services, timeout_s=timeout_s, began=began)
        _clear_leftovers(layout, tell)
        passwords = ensure_secrets(layout.secrets, services)
        record_options(layout, options)
        ports = _choose_ports(layout, port, services, reserved, tell)
        supervisor = _start_infrastructure(layout, passwords, ports, services, tell)
        try:
            _start_services(layout, supervisor, passwords, ports, services, tell)
            _await_health(layout, supervisor, ports, passwords, services=services, timeout_s=timeout_s, tell=tell)
        except BaseException:
            # Half a stack would answer some requests and not others; the logs stay for whoever looks.
            _stop(layout, supervisor)
            raise
        local_edge.connect(layout, ports, services)
    return Started(already_running=False, ports=ports, seconds=time.monotonic() - began)


def _adopt(layout: Layout, running: Running, options: StackOptions, *, port: int | None, tell: Tell) -> None:
    """Bring the edge of a running stack to new options; what needs another start is refused."""
    supervisor, _, ports = running
    if port is not None and port != ports.public:
        raise EnvironmentFailure(
            f"The stack of {layout.root} already runs on port {ports.public}.",
            remedy=f"Use it there, or `clave down` first and `clave up --port {port}` then.",
        )
    before = read_options(layout)
    if options.mutual_tls != before.mutual_tls:
        raise EnvironmentFailure(
            "Services begin or end mutual TLS only together.", remedy="`clave down` first, then `clave up` again."
        )
    if options != before:
        local_edge.reload_edge(layout, supervisor, ports, options)
        tell("the edge restarted hot with the new options")


def _join(layout: Layout, running: Running, *, services: tuple[str, ...], timeout_s: float, began: float) -> Started:
    """Find the stack up: wait until it is healthy."""
    supervisor, passwords, ports = running
    _await_health(layout, supervisor, ports, passwords, services=services, timeout_s=timeout_s)
    local_edge.connect(layout, ports, services)
    return Started(already_running=True, ports=ports, seconds=time.monotonic() - began)


def _is_half_started(supervisor: Supervisor) -> bool:
    """Say whether an `up` was interrupted before it had started everything."""
    return any(state.state == "STOPPED" for state in supervisor.states().values())


def stop(layout: Layout) -> int:
    """Stop the stack of a data directory.

    Returns:
        How many processes were ended; 0 when nothing ran.
    """
    before = len(processes.find_processes(layout.stack_id))
    if before == 0:
        layout.connection.unlink(missing_ok=True)
        return 0
    with _alone(layout):
        try:
            supervisor = Supervisor(layout, read_passwords(layout.secrets))
        except FileNotFoundError:
            supervisor = None
        _stop(layout, supervisor)
    return before


def restart(layout: Layout, name: str, *, timeout_s: float) -> None:
    """Restart one program and wait until the stack is healthy again.

    Raises:
        NotRunning: There is no stack.
        EnvironmentFailure: The stack has no program of this name.
    """
    running = _running(layout)
    if running is None:
        raise NotRunning(f"No stack runs from {layout.root}.", remedy="Start it with `clave up`.")
    supervisor, passwords, ports = running
    known = supervisor.states()
    if name not in known:
        raise EnvironmentFailure(f"The stack has no process {name!r}.", remedy=f"It has: {', '.join(sorted(known))}.")
    in_group = name in SERVICES or name == "worker"
    supervisor.restart(name, group="services" if in_group else "")
    services = tuple(service for service in SERVICES if service in known)
    _await_health(layout, supervisor, ports, passwords, services=services, timeout_s=timeout_s)


def open_running(layout: Layout) -> Running:
    """Speak to the supervisor of a running stack.

    Raises:
        NotRunning: There is none.
    """
    running = _running(layout)
    if running is None:
        raise NotRunning(f"No stack runs from {layout.root}.", remedy="Start it with `clave up`.")
    return running


def _running(layout: Layout) -> Running | None:
    ports = read_ports(layout.run / "ports.json")
    try:
        passwords = read_passwords(layout.secrets)
    except FileNotFoundError:
        return None
    supervisor = Supervisor(layout, passwords)
    if ports is None or not supervisor.is_running():
        return None
    return supervisor, passwords, ports


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Let one `up` or `down` at a time work on a data directory."""
    layout.run.mkdir(parents=True, exist_ok=True)
    with (layout.run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _clear_leftovers(layout: Layout, tell: Tell) -> None:
    layout.connection.unlink(missing_ok=True)
    ended = processes.end_processes(layout.stack_id)
    if ended:
        names = ", ".join(sorted({process.program for process in ended}))
        tell(f"ended {len(ended)} processes that an earlier stack left behind ({names})")
    for stale in (layout.supervisor_socket, layout.run / "supervisord.pid", layout.edge_admin_socket):
        stale.unlink(missing_ok=True)


def _choose_ports(
    layout: Layout, port: int | None, services: tuple[str, ...], reserved: Reservations, tell: Tell
) -> PortPlan:
    record = layout.run / "ports.json"
    ports = plan_ports(
        explicit=port, names=port_names(services), record=record, seed=int(layout.stack_id, 16), take=reserved.take
    )
    if ports.moved_from is not None:
        tell(f"port {ports.moved_from} is taken by {ports.holder}; using {ports.public} instead")
    record_ports(ports, record)
    return ports


def _start_infrastructure(
    layout: Layout, passwords: Passwords, ports: PortPlan, services: tuple[str, ...], tell: Tell
) -> Supervisor:
    run_as = postgres.choose_user(layout.postgres)
    if run_as is not None:
        tell("running as root: Postgres runs unprivileged, without a new account")
    if postgres.initialise(layout, run_as, superuser_password=passwords.postgres):
        tell("made the Postgres cluster")
    write_valkey_configuration(layout, passwords)
    local_edge.write_edge(layout, ports, read_options(layout))
    programs = [*infrastructure(layout, run_as), *service_programs(layout, services, ports, passwords)]
    first = frozenset(program.name for program in programs if not program.group)
    write_configuration(layout, programs, passwords, started=first)
    supervisor = Supervisor(layout, passwords)
    supervisor.await_running(launch(layout))
    try:
        deadline = time.monotonic() + _INFRASTRUCTURE_TIMEOUT_S
        _await(layout, supervisor, ports, passwords, names=["postgres", "valkey", "edge"], deadline=deadline)
    except BaseException:
        _stop(layout, supervisor)
        raise
    tell("Postgres, Valkey and Envoy are up")
    # From here on a supervisor that is restarted by its keeper starts the services as well.
    write_configuration(layout, programs, passwords, started=frozenset(program.name for program in programs))
    return supervisor


def _start_services(
    layout: Layout, supervisor: Supervisor, passwords: Passwords, ports: PortPlan, services: tuple[str, ...], tell: Tell
) -> None:
    postgres.prepare_database(layout, passwords)
    programs = {program.name for program in service_programs(layout, services, ports, passwords)}
    for service in _migrate(layout, services, ports, passwords):
        supervisor.start(service, group="services")  # each as soon as its own schema is there
    if "worker" in programs:
        supervisor.start("worker", group="services")
    if services:
        tell(f"database schemas are current; starting {len(programs)} service processes")


def _migrate(layout: Layout, services: tuple[str, ...], ports: PortPlan, passwords: Passwords) -> Iterator[str]:
    """Run the migrations and name each service whose schema is current.

    Raises:
        StartFailed: A migration failed; carries the end of its log.
    """
    environment = dict(os.environ)
    for service in services:
        environment |= service_environment(layout, service, ports, passwords)
    environment |= {processes.MARK: layout.stack_id, processes.PROGRAM_MARK: "migrations"}
    current = list(services[:1])
    with layout.log("migrations").open("w") as log:
        work = subprocess.Popen(
            [sys.executable, "-m", "clave.stack.migrations", *services],
            cwd=layout.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            for line in work.stdout or ():
                log.write(line)
                word, _, service = line.strip().partition(" ")
                if word == "migrated":
                    current = list(services[services.index(service) + 1 :][:1])
                    yield service
            work.wait(_MIGRATION_TIMEOUT_S)
        finally:
            work.kill()
            work.wait()
    if work.returncode != 0:
        raise _migration_failure(layout, current)


def _migration_failure(layout: Layout, services: list[str]) -> StartFailed:
    what, log = ", ".join(services) or "a service", tail(layout, "migrations")
    if any("Can't locate revision" in line for line in log):
        remedy = "Start it with the clave that made it, or begin anew in another folder with --data-dir DIR."
        return StartFailed(f"A newer clave than this one made the data of {what} in {layout.root}.", remedy=remedy)
    remedy = f"The whole log: {layout.log('migrations')}"
    return StartFailed(f"The database migration of {what} failed.", remedy=remedy, log=log)


def _await_health(
    layout: Layout,
    supervisor: Supervisor,
    ports: PortPlan,
    passwords: Passwords,
    *,
    services: tuple[str, ...],
    timeout_s: float,
    tell: Tell | None = None,
) -> None:
    names = ["postgres", "valkey", *services, *(["worker"] if "trainer" in services else []), "edge"]
    _await(layout, supervisor, ports, passwords, names=names, deadline=time.monotonic() + timeout_s, tell=tell)


def _await(
    layout: Layout,
    supervisor: Supervisor,
    ports: PortPlan,
    passwords: Passwords,
    *,
    names: list[str],
    deadline: float,
    tell: Tell | None = None,
) -> None:
    """Wait until every named program runs and is ready; fail early when one keeps dying."""
    failing_since: dict[str, float] = {}
    waiting = list(names)
    answers: dict[str, health.Health] = {}
    told, told_at = waiting, time.monotonic()
    while waiting:
        now = time.monotonic()
        states = supervisor.states()
        for name in waiting:
            if states[name].state in {"BACKOFF", "EXITED", "FATAL"}:
                since = failing_since.setdefault(name, now)
                if now - since > _BACKOFF_S_MAX:
                    raise StartFailed(
                        f"{name} keeps ending: {states[name].reason or states[name].state.lower()}.",
                        remedy=f"The whole log: {layout.log(name)}",
                        log=tail(layout, name),
                    )
        answers = health.check_all(waiting, layout, ports, passwords)
        waiting = [name for name in waiting if not (answers[name].ready and states[name].state == "RUNNING")]
        if waiting and now > deadline:
            reasons = "; ".join(f"{name} waits for {answers[name].waits_for or 'its start'}" for name in waiting)
            raise TimedOut(
                f"Not healthy in time: {reasons}.",
                remedy=f"The whole log: {layout.log(waiting[0])}; more time with --timeout SECONDS.",
                log=tail(layout, waiting[0]),
            )
        if waiting and tell is not None and now - told_at > (_WORD_S if waiting != told else 4 * _WORD_S):
            told, told_at = waiting, now
            tell(f"{len(names) - len(waiting)} of {len(names)} are ready; waiting for {', '.join(waiting)}")
        if waiting:
            time.sleep(_POLL_S)


def tail(layout: Layout, program: str, lines: int = _LOG_LINES) -> list[str]:
    """Last lines of a program's log; empty when it has none."""
    try:
        return layout.log(program).read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def _stop(layout: Layout, supervisor: Supervisor | None) -> None:
    layout.connection.unlink(missing_ok=True)
    if supervisor is not None and supervisor.is_running():
        supervisor.shut_down()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while processes.find_processes(layout.stack_id) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    processes.end_processes(layout.stack_id)
