"""Commands for the local stack: up, down, status, doctor, restart, edge render."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clave.cli.options import DataDir, OutputOption, data_dir_option
from clave.cli.output import Output, human_bytes, human_seconds, say, show_json, show_table
from clave.failures import EnvironmentFailure, Failure

if TYPE_CHECKING:
    from clave.stack.layout import Layout

_GROUP = "Stack"
_STATUS_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=_GROUP)(up)
    app.command(rich_help_panel=_GROUP)(down)
    app.command(rich_help_panel=_GROUP)(status)
    app.command(rich_help_panel=_GROUP)(doctor)
    app.command(rich_help_panel=_GROUP)(restart)
    edge = typer.Typer(no_args_is_help=True, help="The edge: Envoy's configuration and its hot restart.")
    edge.command("render")(edge_render)
    edge.command("reload")(edge_reload)
    app.add_typer(edge, name="edge", rich_help_panel=_GROUP)


def up(
    *,
    data_dir: DataDir = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Public port (default: 47310, or a free one where that is taken).",
            show_default=False,
        ),
    ] = None,
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls",
            envvar="CLAVE_TLS",
            help="TLS on the public port, with a generated certificate.",
            show_default="as at the last start",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="CLAVE_TLS_CERT", help="Your own certificate chain (PEM).", show_default=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="CLAVE_TLS_KEY", help="Its private key (PEM).", show_default=False)
    ] = None,
    mtls: Annotated[
        bool | None,
        typer.Option(
            "--mtls/--no-mtls",
            envvar="CLAVE_MTLS",
            help="Mutual TLS between the edge and the services, and among these.",
            show_default="as at the last start",
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running in the background.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until everything must be healthy.")] = 180.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start the local stack: Postgres, Valkey, Envoy, six services and a worker."""
    from clave.connection import find_connection  # noqa: PLC0415 - only this command needs the stack's machinery
    from clave.stack import doctor as checks  # noqa: PLC0415
    from clave.stack import lifecycle  # noqa: PLC0415
    from clave.stack.options import read_options  # noqa: PLC0415

    layout = _layout(data_dir)
    say(f"data directory {layout.root}")
    for finding in checks.examine(layout):
        if finding.verdict == "failure":
            raise EnvironmentFailure(f"{finding.check}: {finding.detail}.", remedy=finding.remedy)
        if finding.verdict == "warning" and finding.check != "processes":
            say(f"warning: {finding.check}: {finding.detail}. {finding.remedy}")
    options = read_options(layout).changed(tls=tls, tls_cert=tls_cert, tls_key=tls_key, mutual_tls=mtls)
    started = lifecycle.start(layout, port=port, timeout_s=timeout, tell=say, options=options)
    layout.demo_mark.unlink(missing_ok=True)  # from now on it is the user's: no demo may delete it
    url = find_connection(data_dir=layout.root).url
    if output is Output.JSON:
        show_json({"url": url, "already_running": started.already_running, "connection": str(layout.connection)})
    if started.already_running:
        say(f"already running at {url}")
    else:
        say(f"ready in {started.seconds:.1f} s at {url} (REST and gRPC)")
    say(f"addresses and keys: {layout.connection}")
    if detach:
        where = data_dir_option(data_dir)
        say(f"next: `clave status{where}`, `clave demo churn{where}`, `clave down{where}`")
        return
    say(f"Ctrl-C stops it; `clave up --detach{data_dir_option(data_dir)}` leaves it running.")
    _stay(layout.root)


def _stay(root: Path) -> None:
    """Hold the terminal until Ctrl-C, then stop the stack; end too when somebody else stops it."""
    import signal  # noqa: PLC0415

    from clave.stack import lifecycle, processes  # noqa: PLC0415
    from clave.stack.layout import Layout  # noqa: PLC0415

    layout = Layout.at(root)

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        while processes.find_processes(layout.stack_id):
            time.sleep(_STATUS_S)
        say("the stack was stopped from elsewhere")
    except KeyboardInterrupt:
        say("stopping")
        lifecycle.stop(layout)
        say("stopped")


def down(
    *,
    data_dir: DataDir = None,
    purge: Annotated[bool, typer.Option("--purge", help="Delete the data directory as well.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop the local stack; the data stays unless you say --purge."""
    from clave.stack import lifecycle  # noqa: PLC0415

    layout = _layout(data_dir)
    began = time.monotonic()
    ended = lifecycle.stop(layout) if layout.root.exists() else 0
    say(
        f"stopped {ended} processes in {time.monotonic() - began:.1f} s"
        if ended
        else f"nothing runs from {layout.root}"
    )
    if purge and layout.root.exists():
        _purge(layout.root, ask=not yes)
    if output is Output.JSON:
        show_json({"stopped": ended})


def _purge(root: Path, *, ask: bool) -> None:
    import shutil  # noqa: PLC0415

    from clave.stack.layout import Layout  # noqa: PLC0415

    layout = Layout.at(root)
    if not (layout.run / "ports.json").exists():
        raise EnvironmentFailure(f"{root} does not look like a data directory of clave; nothing deleted.")
    if ask and not typer.confirm(f"Delete {root} with every model, prediction and key in it?"):
        raise typer.Abort
    outside = None if layout.sockets.is_relative_to(root) else layout.sockets
    shutil.rmtree(root)
    if outside is not None:
        shutil.rmtree(outside, ignore_errors=True)
    say(f"deleted {root}")


def status(*, data_dir: DataDir = None, output: OutputOption = Output.TABLE) -> None:
    """Show every process: state, health, memory, and what it waits for."""
    from clave.stack.status import read_status  # noqa: PLC0415

    found = read_status(_layout(data_dir))
    if output is Output.JSON:
        show_json(found.to_json())
    else:
        rows = [
            (
                line.name,
                line.state.lower(),
                line.pid or "",
                human_seconds(line.uptime_s) if line.pid else "",
                human_bytes(line.memory_bytes) if line.pid else "",
                "ready" if line.healthy else "waiting",
                line.waits_for,
            )
            for line in found.processes
        ]
        show_table(("process", "state", "pid", "up", "memory", "health", "waits for"), rows)
        say(f"{found.url}  {human_bytes(found.memory_bytes)} in all, data in {found.data_dir}")
    if not found.healthy:
        raise typer.Exit(1)


def doctor(*, data_dir: DataDir = None, output: OutputOption = Output.TABLE) -> None:
    """Look for what may keep the stack from running; each finding names its remedy."""
    from clave.stack.doctor import examine  # noqa: PLC0415

    findings = examine(_layout(data_dir))
    if output is Output.JSON:
        show_json([vars(finding) for finding in findings])
    else:
        rows = [(finding.verdict, finding.check, finding.detail, finding.remedy) for finding in findings]
        show_table(("", "check", "found", "remedy"), rows)
    if any(finding.verdict == "failure" for finding in findings):
        raise typer.Exit(EnvironmentFailure.exit_code)


def restart(
    process: Annotated[str, typer.Argument(help="Which process, as `clave status` names it.")],
    *,
    data_dir: DataDir = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until everything must be healthy.")] = 60.0,
) -> None:
    """Restart one process and wait until the stack is healthy again."""
    from clave.stack import lifecycle  # noqa: PLC0415

    began = time.monotonic()
    lifecycle.restart(_layout(data_dir), process, timeout_s=timeout)
    say(f"{process} is healthy again after {time.monotonic() - began:.1f} s")


def edge_reload(*, data_dir: DataDir = None) -> None:
    """Restart the edge hot, with renewed certificates: requests in flight are finished, none is refused."""
    from clave.stack import lifecycle, local_edge  # noqa: PLC0415
    from clave.stack.options import read_options  # noqa: PLC0415

    layout = _layout(data_dir)
    began = time.monotonic()
    supervisor, _, ports = lifecycle.open_running(layout)
    local_edge.reload_edge(layout, supervisor, ports, read_options(layout))
    say(f"the edge's next process serves after {time.monotonic() - began:.1f} s; the old one ends by itself")


def edge_render(
    *,
    upstream: Annotated[list[str], typer.Option(help="NAME=HOST:PORT for each service and for inference_grpc.")],
    proof_file: Annotated[Path, typer.Option(help="The services' edge.key: proves that a request came this way.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on.")] = "0.0.0.0:47310",
    domain: Annotated[list[str] | None, typer.Option(help="Accepted Host values; repeat it, or '*'.")] = None,
    admin_socket: Annotated[str, typer.Option(help="Path of Envoy's administration socket.")] = "/tmp/envoy-admin.sock",  # noqa: S108
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain of the public port.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
) -> None:
    """Print Envoy's configuration for another place; it holds the edge's secret."""
    from clave.stack import edge  # noqa: PLC0415
    from clave.stack.certificates import Certificate  # noqa: PLC0415

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise Failure(f"{listen!r} is not HOST:PORT.")
    if (tls_cert is None) != (tls_key is None):
        raise Failure("--tls-cert and --tls-key belong together.")
    if not proof_file.is_file():
        raise EnvironmentFailure(f"There is no file {proof_file}.", remedy="It is edge.key in the secrets' folder.")
    certificate = None if tls_cert is None or tls_key is None else Certificate(tls_cert, tls_key, authority=None)
    sys.stdout.write(
        edge.render_edge(
            edge.Edge(
                listen_host=host,
                listen_port=int(port),
                domains=tuple(domain or edge.LOCAL_DOMAINS),
                admin_socket=admin_socket,
                upstreams=dict(edge.parse_upstream(text) for text in upstream),
                proof=proof_file.read_text().strip(),
                certificate=certificate,
            )
        )
    )


def _layout(data_dir: Path | None) -> "Layout":
    from clave.connection import default_data_dir  # noqa: PLC0415
    from clave.stack.layout import Layout  # noqa: PLC0415

    return Layout.at(data_dir or default_data_dir())
