"""``python -m clave_inference serve``: one process, or several that share the port."""

import signal
import socket
import sys
from functools import partial

import uvicorn
from clave_common.answer_headers import EVERY_ANSWER
from clave_common.logs import configure_logs
from clave_common.mutual_tls import MutualTls

from clave_inference.app import SERVICE, build
from clave_inference.draining import DrainingServer
from clave_inference.settings import Settings
from clave_inference.supervisor import Workers, say_started

_BACKLOG = 2048
_ENDING_EXTRA_S = 10.0


def serve_one(settings: Settings, worker: int, *, started_pipe: int | None = None) -> None:
    """Serve in this process until SIGTERM; what is in flight is finished first."""
    app, protocol, begin_draining = build(settings, worker=worker)
    tls = MutualTls.serving(settings)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        headers=EVERY_ANSWER,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
        timeout_keep_alive=75,
        **({} if tls is None else tls.uvicorn_options()),
    )
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's; a whole group may get it
    server = DrainingServer(
        config,
        on_started=(lambda: None) if started_pipe is None else partial(say_started, started_pipe),
        on_ending=begin_draining,
    )
    server.run(sockets=[listen(settings)])


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


def main() -> None:
    """Run the command of the command line."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else "serve"
    if command == "migrate":  # nothing to do: the service has no database
        return
    settings = Settings()
    configure_logs(service=SERVICE, form=settings.peers.log_format, level=settings.peers.log_level)
    if command == "worker":
        serve_one(settings, int(arguments[1]), started_pipe=int(arguments[2]) if len(arguments) > 2 else None)  # noqa: PLR2004
    elif command == "serve" and settings.workers > 1:
        Workers(settings.workers, ending_s_max=settings.shutdown_grace_s + _ENDING_EXTRA_S).run()
    elif command == "serve":
        serve_one(settings, 0)
    else:
        sys.stderr.write("usage: python -m clave_inference serve | migrate\n")
        raise SystemExit(2)


if __name__ == "__main__":
    main()
