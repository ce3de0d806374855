"""The commands of ``clave`` and how they are grouped in its help."""

from typing import Annotated

import typer

from clave.cli import (
    access,
    audit,
    cards,
    demo,
    governance,
    holds,
    lineage,
    logs,
    loop,
    monitoring,
    people,
    registry,
    rollouts,
    schedules,
    settings,
    stack,
    versions,
    webhooks,
)

app = typer.Typer(
    name="clave",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "clave: build, deploy, monitor, retrain, in one closed loop on your machine.\n\n"
        "Start here:  [bold]clave demo churn[/bold]  shows the whole loop on real data;  "
        "[bold]clave up[/bold]  starts the stack for your own.\n\n"
        "Every command that a program may read takes [bold]--output json[/bold]. Exit codes: 0 done, 1 failed, "
        "2 wrong usage, 3 environment, 4 refused, 5 time-out, 130 interrupted."
    ),
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback shape
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(version("clave"))
        raise typer.Exit


@app.callback()
def clave(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an unexpected error came from.")] = False,
) -> None:
    """Carry the options that stand before a command."""


stack.register(app)
logs.register(app)
demo.register(app)
loop.register(app)
schedules.register(app)
monitoring.register(app)
registry.register(app)
versions.register(app)
cards.register(app)
lineage.register(app)
rollouts.register(app)
holds.register(app)
webhooks.register(app)
people.register(app)
access.register(app)
audit.register(app)
governance.register(app)
settings.register(app)
