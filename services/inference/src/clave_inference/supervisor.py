"""Several worker processes on one port: kept alive, replaced one after the other, ended together.

SIGHUP replaces every worker: one drains and ends, its successor starts, and the next one's turn comes when the
successor takes connections. SIGTERM ends all. Workers say through a pipe that they take connections.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Final

from clave_common.logs import get_logger

_log = get_logger(__name__)
_LOOK_S: Final = 0.1
_RESTART_AFTER_S: Final = 0.5
_START_S_MAX: Final = 60.0


class Workers:
    """The worker processes of a port.

    Args:
        count: How many.
        ending_s_max: Seconds that a worker may take to drain; then it is killed.
    """

    def __init__(self, count: int, *, ending_s_max: float) -> None:
        self._count = count
        self._ending_s_max = ending_s_max
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._pipes: dict[int, int] = {}
        self._ending = False
        self._replacing = False

    def run(self) -> None:
        """Keep the workers alive until SIGTERM or SIGINT."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        signal.signal(signal.SIGHUP, self._replace)
        for number in range(self._count):
            self._start(number)
        while not self._ending:
            if self._replacing:
                self._replacing = False
                self._replace_all()
            self._revive()
            time.sleep(_LOOK_S)
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            self._wait(child)

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self._ending = True

    def _replace(self, _signal: int, _frame: FrameType | None) -> None:
        self._replacing = True

    def _start(self, number: int) -> None:
        """Start a worker; it writes to its pipe when it takes connections."""
        read, write = os.pipe()
        command = [sys.executable, "-m", "clave_inference", "worker", str(number), str(write)]
        self._children[number] = subprocess.Popen(command, pass_fds=[write])  # noqa: S603  our own interpreter
        os.close(write)
        self._forget_pipe(number)
        self._pipes[number] = read

    def _forget_pipe(self, number: int) -> None:
        pipe = self._pipes.pop(number, None)
        if pipe is not None:
            os.close(pipe)

    def _revive(self) -> None:
        for number, child in list(self._children.items()):
            if child.poll() is not None:
                _log.error("worker_died", worker=number, code=child.returncode)
                time.sleep(_RESTART_AFTER_S)
                self._start(number)

    def _replace_all(self) -> None:
        for number in range(self._count):
            if not all(self._takes_connections(other) for other in range(self._count)):
                _log.error("replacement_stopped", worker=number, reason="a worker does not start")
                return
            self._children[number].terminate()
            self._wait(self._children[number])
            self._start(number)
            _log.info("worker_replaced", worker=number)

    def _takes_connections(self, number: int) -> bool:
        """Wait for a worker's word; False where it ends or takes too long."""
        until = time.monotonic() + _START_S_MAX
        while number in self._pipes and not self._ending:
            if select.select([self._pipes[number]], [], [], _LOOK_S)[0]:
                started = bool(os.read(self._pipes[number], 1))
                self._forget_pipe(number)
                return started
            if time.monotonic() > until:
                return False
        return not self._ending

    def _wait(self, child: subprocess.Popen[bytes]) -> None:
        try:
            child.wait(self._ending_s_max)
        except subprocess.TimeoutExpired:
            _log.error("worker_killed", pid=child.pid)
            child.kill()
            child.wait()


def say_started(pipe: int) -> None:
    """Tell the supervisor that this worker takes connections."""
    with contextlib.suppress(OSError):  # the supervisor does not wait for it
        os.write(pipe, b"1")
    os.close(pipe)
