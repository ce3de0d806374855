"""The state of every process of a stack, as `clave status` shows it."""

from dataclasses import asdict, dataclass
from typing import Any

from clave.stack import health, lifecycle, processes
from clave.stack.layout import Layout
from clave.stack.options import read_options

_ORDER = ("edge", "gateway", "registry", "features", "inference", "monitor", "trainer", "worker", "postgres", "valkey")


@dataclass(frozen=True)
class ProcessStatus:
    """One line of the table.

    Attributes:
        name: Program.
        state: The supervisor's word: RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL or STOPPING.
        pid: Process id, 0 when there is none.
        uptime_s: Seconds since its last start.
        memory_bytes: Proportional memory of it and its children.
        healthy: Whether it says it does its work.
        waits_for: What it waits for, empty when healthy.
    """

    name: str
    state: str
    pid: int
    uptime_s: int
    memory_bytes: int
    healthy: bool
    waits_for: str


@dataclass(frozen=True)
class StackStatus:
    """The whole stack.

    Attributes:
        data_dir: Its data directory.
        url: Its public address.
        healthy: Whether every process is.
        memory_bytes: Of all processes together.
        processes: One entry for each, the supervisor last.
    """

    data_dir: str
    url: str
    healthy: bool
    memory_bytes: int
    processes: list[ProcessStatus]

    def to_json(self) -> dict[str, Any]:
        """The status as plain values."""
        return asdict(self)


def read_status(layout: Layout) -> StackStatus:
    """Ask the supervisor and every process.

    Raises:
        NotRunning: No stack runs from this data directory.
    """
    supervisor, passwords, ports = lifecycle.open_running(layout)
    states = supervisor.states()
    running = [name for name, state in states.items() if state.state == "RUNNING"]
    answers = health.check_all(running, layout, ports, passwords)
    table = []
    for name in sorted(states, key=_place):
        state = states[name]
        answer = answers.get(name, health.Health(ready=False, waits_for=state.reason or "its start"))
        table.append(
            ProcessStatus(
                name=name,
                state=state.state,
                pid=state.pid,
                uptime_s=state.uptime_s,
                memory_bytes=processes.memory_bytes(state.pid) if state.pid else 0,
                healthy=answer.ready,
                waits_for=answer.waits_for,
            )
        )
    table.append(_supervisor_line(layout))
    return StackStatus(
        data_dir=str(layout.root),
        url=f"{read_options(layout).scheme}://127.0.0.1:{ports.public}",
        healthy=all(line.healthy for line in table),
        memory_bytes=sum(line.memory_bytes for line in table),
        processes=table,
    )


def _supervisor_line(layout: Layout) -> ProcessStatus:
    pid = int((layout.run / "supervisord.pid").read_text())
    memory = processes.memory_bytes(pid, descendants=False)
    return ProcessStatus(
        name="supervisor",
        state="RUNNING",
        pid=pid,
        uptime_s=processes.uptime_s(pid),
        memory_bytes=memory,
        healthy=memory > 0,
        waits_for="",
    )


def _place(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)
