"""Keep the supervisor alive: ``python -m clave.stack.keeper DATA_DIR``.

Supervisord revives every process but itself. The keeper is one of its programs; the kernel wakes it when supervisord
dies without having stopped it first. It then waits until the orphaned programs are gone (the kernel has told them to
stop too), starts a new supervisord, which starts everything again, and ends. A keeper that dies is restarted by
supervisord: no process of the stack is left without somebody who brings it back.
"""

import os
import signal
import sys
from pathlib import Path

from clave.stack.layout import Layout

_GRACE_S = 20.0


def main() -> None:
    """Sleep until the supervisor stops us (do nothing) or dies (start another)."""
    layout = Layout.at(Path(sys.argv[1]))
    watched = {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    if os.getppid() == _recorded_supervisor(layout) and signal.sigwait(watched) != signal.SIGUSR1:
        return
    # Imported only now: while it sleeps, the keeper should cost as little memory as an interpreter can.
    from clave.stack import processes  # noqa: PLC0415
    from clave.stack.supervisor import launch  # noqa: PLC0415

    processes.end_processes(layout.stack_id, grace_s=_GRACE_S)
    launch(layout)


def _recorded_supervisor(layout: Layout) -> int:
    try:
        return int((layout.run / "supervisord.pid").read_text())
    except (FileNotFoundError, ValueError):
        return 0


if __name__ == "__main__":
    main()
