"""The local stack comes up, comes back whatever is killed, goes down whole and keeps what it held.

These tests run stacks of their own with one service (the whole stack's turn is `tests/e2e`), so that killing things
disturbs nobody else's tests.
"""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from clave.failures import EnvironmentFailure, StartFailed
from clave.stack import health, lifecycle, postgres, processes
from clave.stack.layout import Layout
from clave_testing.patience import LONG_S, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("clave-stack")]
SERVICES = ("gateway",)


def up(
    layout: Layout, *, port: int | None = None, services: tuple[str, ...] = SERVICES
) -> tuple[lifecycle.Started, list]:
    told: list[str] = []
    started = lifecycle.start(layout, port=port, timeout_s=LONG_S, tell=told.append, services=services)
    return started, told


def pids(layout: Layout) -> dict[str, int]:
    return {process.program: process.pid for process in processes.find_processes(layout.stack_id)}


def is_healthy(layout: Layout) -> bool:
    try:
        supervisor, passwords, ports = lifecycle.open_running(layout)
        states = supervisor.states()
    except EnvironmentFailure:
        return False
    answers = health.check_all(list(states), layout, ports, passwords)
    return all(state.state == "RUNNING" for state in states.values()) and all(a.ready for a in answers.values())


def write_row(layout: Layout, value: str) -> None:
    _, passwords, _ = lifecycle.open_running(layout)
    with postgres.connect(layout, password=passwords.postgres) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
        connection.execute("INSERT INTO kept VALUES (%s)", (value,))


def rows(layout: Layout) -> list[str]:
    _, passwords, _ = lifecycle.open_running(layout)
    with postgres.connect(layout, password=passwords.postgres) as connection:
        return [str(row[0]) for row in connection.execute("SELECT value FROM kept ORDER BY value").fetchall()]


def valkey(layout: Layout, command: str) -> bytes:
    """Ask as a service that may write keys of limits."""
    _, passwords, _ = lifecycle.open_running(layout)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(layout.valkey_socket))
        connection.sendall(f"AUTH gateway {passwords.valkey_users['gateway']}\r\n".encode())
        assert connection.recv(64) == b"+OK\r\n"
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(256)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """A running stack with one service."""
    made = Layout.at(tmp_path_factory.mktemp("stack") / "data")
    up(made)
    try:
        yield made
    finally:
        lifecycle.stop(made)


def test_it_tells_how_to_reach_it(layout):
    connection = json.loads(layout.connection.read_text())
    assert connection["url"] == f"http://{connection['grpc']}"
    assert set(connection["services"]) == set(SERVICES)
    key = Path(connection["admin_key_file"])
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().startswith("clave_")


def test_a_second_up_says_that_it_already_runs(layout):
    before = pids(layout)
    started, _ = up(layout)
    assert started.already_running
    assert pids(layout) == before


def test_a_running_stack_does_not_move_to_another_port(layout):
    with pytest.raises(EnvironmentFailure, match="already runs on port"):
        up(layout, port=1)


def test_the_databases_are_on_private_sockets_only(layout):
    assert layout.postgres_sockets.stat().st_mode & 0o077 == 0
    assert layout.valkey_socket.stat().st_mode & 0o077 == 0
    for pid in (pids(layout)["postgres"], pids(layout)["valkey"]):
        listening = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        inodes = {line.split()[9] for line in listening if line.split()[3] == "0A"}
        held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
        assert not {f"socket:[{inode}]" for inode in inodes} & held


@pytest.mark.parametrize("victim", ["gateway", "postgres", "valkey", "edge", "keeper", "supervisor"])
def test_a_killed_process_comes_back_and_the_stack_is_healthy_again(layout, victim):
    before = pids(layout)[victim]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: pids(layout).get(victim, before) != before, what=f"another {victim}")
    wait_until(lambda: is_healthy(layout), what="the stack to be healthy")


def test_up_after_a_hard_kill_of_everything_loses_nothing(layout):
    write_row(layout, "before the kill")
    assert valkey(layout, "SET clave:rl:kept yes") == b"+OK\r\n"
    key = layout.admin_key.read_text()
    ports = (layout.run / "ports.json").read_text()
    for process in processes.find_processes(layout.stack_id):
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not pids(layout), what="the end of every process")
    started, _ = up(layout)
    assert not started.already_running
    assert "before the kill" in rows(layout)
    assert valkey(layout, "GET clave:rl:kept") == b"$3\r\nyes\r\n"
    assert layout.admin_key.read_text() == key
    after = json.loads((layout.run / "ports.json").read_text())
    # Another stack that starts in the meantime may take the port of a service, whose address nobody outside knows.
    assert after["public"] == json.loads(ports)["public"]


def test_down_leaves_no_process_and_up_keeps_the_data(layout):
    write_row(layout, "before the stop")
    assert lifecycle.stop(layout) > 0
    assert pids(layout) == {}
    assert not layout.connection.exists()
    assert lifecycle.stop(layout) == 0
    up(layout)
    assert "before the stop" in rows(layout)


def test_a_taken_port_gives_a_free_one_and_says_so(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        layout = Layout.at(tmp_path / "data")
        layout.create()
        (layout.run / "ports.json").write_text(json.dumps({"public": taken}))
        try:
            started, told = up(layout, services=())
            assert started.ports.public != taken
            assert any(str(taken) in line and "taken by" in line for line in told)
        finally:
            lifecycle.stop(layout)


def test_a_data_directory_with_a_long_path_works(tmp_path):
    layout = Layout.at(tmp_path / ("a-long-name-" * 12))
    try:
        up(layout, services=())
        assert not layout.sockets.is_relative_to(layout.root)
        assert is_healthy(layout)
    finally:
        lifecycle.stop(layout)


def test_a_program_that_cannot_start_is_named_with_its_log_and_nothing_stays(tmp_path):
    layout = Layout.at(tmp_path / "data")
    with pytest.raises(StartFailed, match="migration of nonesuch") as failed:
        up(layout, services=("nonesuch",))
    assert any("nonesuch" in line for line in failed.value.log)
    assert pids(layout) == {}
