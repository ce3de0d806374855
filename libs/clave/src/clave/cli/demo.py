"""The command `clave demo churn`: a stack, the story, a summary, and where to look next."""

import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.options import ApiKey, DataDir, Url, data_dir_option
from clave.cli.output import say, show_table, stdout, talk
from clave.failures import EnvironmentFailure, Failure

if TYPE_CHECKING:
    from clave.connection import Connection
    from clave.demo.timeline import Timeline
    from clave.stack.layout import Layout

_NAMES_SHOWN = 5
_START_TIMEOUT_S = 180.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    demo = typer.Typer(no_args_is_help=True, help="Demonstrations on real data.")
    demo.command("churn")(churn)
    # One command alone would lose its name.
    demo.callback()(lambda: None)
    app.add_typer(demo, name="demo", rich_help_panel="The loop")


def churn(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up afterwards.")] = False,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write every event and figure here; - is stdout.", show_default=False
        ),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Fewer predictions: quicker, with less evidence.")] = False,
    data_dir: DataDir = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Public port.", show_default=False)] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Close the whole loop on real churn data: build, deploy, monitor, retrain.

    Starts a stack of its own, unless one runs already or --url names one.
    """
    from clave.demo.timeline import Timeline  # noqa: PLC0415 - only this command tells a story

    signal.signal(signal.SIGTERM, _interrupt)
    timeline = Timeline(talk())
    started: Layout | None = None
    outcome, summary = "failed", {}
    try:
        if url is None:
            layout, ours = _bring_up(timeline, data_dir, port)
            started = layout if ours else None
        summary = _tell(timeline, data_dir=data_dir, url=url, api_key=api_key, fast=fast)
        outcome = "closed"
        _show_summary(summary, timeline)
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    except Exception as error:
        summary = {"error": str(error)}
        raise
    finally:
        timeline.write(json_file, outcome=outcome, summary=summary)
        if started is not None:
            _leave(started, keep=keep)
    _show_next(summary, data_dir=data_dir, url=url, running=started is None or keep)


def _interrupt(_number: int, _frame: object) -> None:
    """End on SIGTERM as on Ctrl-C: the stack that the demo started must not stay behind."""
    raise KeyboardInterrupt


def _bring_up(timeline: "Timeline", data_dir: Path | None, port: int | None) -> "tuple[Layout, bool]":
    """Start a stack, or find one; say whether it is ours to stop."""
    from clave.connection import default_data_dir, find_connection  # noqa: PLC0415
    from clave.stack import lifecycle, processes  # noqa: PLC0415
    from clave.stack.layout import Layout  # noqa: PLC0415

    layout = Layout.at(data_dir or default_data_dir())
    timeline.chapter("Stack: Postgres, Valkey, Envoy, six services, one worker")
    running = bool(layout.root.exists() and processes.find_processes(layout.stack_id))
    if layout.demo_mark.exists():
        if running:
            raise EnvironmentFailure(
                f"A demo runs from {layout.root} already, or was killed there.",
                remedy=f"Let it end, or stop it with `clave down{data_dir_option(data_dir)}`.",
            )
        # What an earlier demo made and nobody used since: begin anew.
        say(f"removing what an earlier demo left in {layout.root}")
        shutil.rmtree(layout.root)
    fresh = not layout.root.exists()
    layout.create()
    if fresh:
        layout.demo_mark.write_text("`clave demo churn` made this folder and may delete it.\n")
    started = lifecycle.start(layout, port=port, timeout_s=_START_TIMEOUT_S, tell=timeline.line)
    timeline.mark("stack_ready")
    verb = "runs already" if started.already_running else f"is ready after {started.seconds:.1f} s"
    timeline.line(f"the stack {verb} at {find_connection(data_dir=layout.root).url}", seconds=round(started.seconds, 2))
    return layout, not running


def _tell(
    timeline: "Timeline", *, data_dir: Path | None, url: str | None, api_key: str | None, fast: bool
) -> dict[str, Any]:
    from clave.client import AsyncClient  # noqa: PLC0415
    from clave.demo.scenario import close_the_loop  # noqa: PLC0415
    from clave.demo.stage import Plan  # noqa: PLC0415

    plan = Plan(calm_rows=500, wave_rows_max=1800) if fast else Plan()

    async def tell() -> dict[str, Any]:
        async with AsyncClient(url, api_key, data_dir=data_dir) as admin:
            key_file = _key_file(admin.connection)
            summary = await close_the_loop(timeline, admin=admin, plan=plan, key_file=key_file)
            return {**summary, "url": admin.connection.url, "application_key_file": str(key_file)}

    return asyncio.run(tell())


def _key_file(connection: "Connection") -> Path:
    """Where the application's key is kept: beside the admin's of a local stack, else in a private new folder."""
    if connection.key_file is not None:
        return connection.key_file.with_name("demo-app.key")
    return Path(tempfile.mkdtemp(prefix="clave-demo-")) / "demo-app.key"


def _leave(layout: "Layout", *, keep: bool) -> None:
    """Stop the stack, or leave it to the user: what is kept is theirs, and no later demo deletes it."""
    from clave.stack import lifecycle  # noqa: PLC0415

    if keep:
        layout.demo_mark.unlink(missing_ok=True)
        return
    say("stopping the stack (--keep leaves it up)")
    lifecycle.stop(layout)


def _show_summary(summary: dict[str, Any], timeline: "Timeline") -> None:
    calm, shifted, application = summary["calm"], summary["shifted"], summary["application"]
    rows = [
        ("first answered prediction", f"{timeline.marks.get('first_prediction', 0):.1f} s after the start"),
        ("calm stretch", f"{calm['outcomes']} outcomes, {_compared(calm)}: no alarm"),
        ("shifted mix", f"{shifted['outcomes']} outcomes, {_compared(shifted)}"),
        ("drift named in", _some(summary["drifted_features"])),
        ("decision", f"retrain, because of {summary['decision'].replace('_', ' ')}"),
        ("promoted", f"v{summary['live_version']} instead of v{summary['first_version']}"),
        ("refused", "; ".join(summary["refused_reasons"])),
        (
            "application",
            f"{application['requests']} requests, {application['rows']} rows, {application['failed']} failed; "
            + ", ".join(f"{version}: {count}" for version, count in application["rows_by_version"].items())
            + f", {application['canary_rows']} as a canary",
        ),
        ("the loop closed in", f"{timeline.elapsed_s:.1f} s"),
    ]
    stdout().print()
    show_table(("", "the loop, in the services' own figures"), rows)


def _some(names: list[str]) -> str:
    """Name the first few, strongest first, and count the rest."""
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _compared(figures: dict[str, Any]) -> str:
    from clave.demo.watching import compare_to_reference  # noqa: PLC0415

    return compare_to_reference(figures["realised"], figures["reference"])


def _show_next(summary: dict[str, Any], *, data_dir: Path | None, url: str | None, running: bool) -> None:
    if not summary.get("url"):
        raise Failure("The demo has no summary.")
    where = f" --url {url}" if url else data_dir_option(data_dir)
    lines = [
        "# one prediction with the application's key",
        f"curl -s {summary['url']}/v2/models/{summary['endpoint']}/infer \\",
        f'  -H "Authorization: Bearer $(cat {summary["application_key_file"]})" -H "Content-Type: application/json" \\',
        '  -d \'{"inputs": [], "parameters": {"entities": {"customer_id": ["C00007"]}}}\'',
        f"clave models card {summary['endpoint']}{where}       # the model card",
        f"clave runs show {summary['retraining_run']}{where}   # the retraining, step by step",
        f"clave monitor report {summary['endpoint']}{where}    # drift and performance",
        f"clave audit verify{where}                            # nothing was altered",
    ]
    if url is None:
        lines.insert(0, "" if running else f"clave up --detach{where}   # the stack was stopped; its data is there")
        lines.append(f"clave down{where}")
    if shutil.which("clave") is None:
        lines.insert(0, f"source {Path(sys.executable).with_name('activate')}   # puts `clave` on your path")
    say("\nExplore further:\n" + "\n".join(f"  {line}" for line in lines if line))
