"""``python -m clave_inference serve``: one process, or several that share the port."""

import signal
import socket
import subprocess
import sys
import time
from types import FrameType

import uvicorn
from clave_common.logs import configure_logs, get_logger

from clave_inference.app import SERVICE, build
from clave_inference.settings import Settings

_log = get_logger(__name__)
_BACKLOG = 2048
_RESTART_AFTER_S = 0.5


def serve_one(settings: Settings, worker: int) -> None:
    """Serve in this process until SIGTERM; what is in flight is finished first."""
    app, protocol = build(settings, worker=worker)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
        timeout_keep_alive=75,
    )
    uvicorn.Server(config).run(sockets=[listen(settings)])


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket; several processes may share it."""
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if settings.workers > 1:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((settings.http_host, settings.http_port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve_many(settings: Settings) -> None:
    """Keep `workers` processes alive until SIGTERM, then let them drain."""
    command = [sys.executable, "-m", "clave_inference", "worker"]
    children = [subprocess.Popen([*command, str(number)]) for number in range(settings.workers)]  # noqa: S603
    ending = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal ending
        ending = True
        for child in children:
            child.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    while not ending:
        for number, child in enumerate(children):
            if child.poll() is not None and not ending:
                _log.error("worker_died", worker=number, code=child.returncode)
                children[number] = subprocess.Popen([*command, str(number)])  # noqa: S603
        time.sleep(_RESTART_AFTER_S)
    for child in children:
        child.wait()


def main() -> None:
    """Run the command of the command line."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else "serve"
    if command == "migrate":  # nothing to do: the service has no database
        return
    settings = Settings()
    configure_logs(service=SERVICE, form=settings.peers.log_format, level=settings.peers.log_level)
    if command == "worker":
        serve_one(settings, int(arguments[1]))
    elif command == "serve" and settings.workers > 1:
        serve_many(settings)
    elif command == "serve":
        serve_one(settings, 0)
    else:
        sys.stderr.write("usage: python -m clave_inference serve | migrate\n")
        raise SystemExit(2)


if __name__ == "__main__":
    main()
