"""Commands about legal holds: set, lift, list."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.session import Session, connected

if TYPE_CHECKING:
    from clave.client import AsyncClient

_MODEL = Annotated[str, typer.Argument(help="Name of the registered model.")]
_VERSION = Annotated[int, typer.Argument(help="Number of the version.")]
_REASON = Annotated[str, typer.Option(help="Why; it stays on the record.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    holds = typer.Typer(no_args_is_help=True, help="Legal holds on model versions: set, lift, list.")
    holds.command("set")(connected(set_hold))
    holds.command("lift")(connected(lift_hold))
    holds.command("list")(connected(list_holds))
    app.add_typer(holds, name="holds", rich_help_panel="Models and endpoints")


def set_hold(session: Session, *, model: _MODEL, version: _VERSION, reason: _REASON) -> None:
    """Keep a version and its files, whatever retention says."""

    async def ask(client: "AsyncClient") -> Any:
        from clave_contracts.registry import API  # noqa: PLC0415

        path = f"{API}/models/{model}/versions/{version}/hold"
        await client.registry.send("PUT", path, body={"reason": reason})

    session.ask(ask)
    session.show({"held": f"{model}/{version}"}, {"held": f"{model} version {version}", "reason": reason})


def lift_hold(session: Session, *, model: _MODEL, version: _VERSION, reason: _REASON) -> None:
    """Lift the hold on a version."""

    async def ask(client: "AsyncClient") -> Any:
        from clave_contracts.registry import API  # noqa: PLC0415

        path = f"{API}/models/{model}/versions/{version}/hold/lift"
        await client.registry.send("POST", path, body={"reason": reason})

    session.ask(ask)
    session.show({"lifted": f"{model}/{version}"}, {"lifted": f"{model} version {version}", "reason": reason})


def list_holds(session: Session) -> None:
    """List holds in force and lifted, newest first."""

    async def ask(client: "AsyncClient") -> Any:
        from clave_contracts.registry import API  # noqa: PLC0415

        return await client.registry.get(dict[str, Any], f"{API}/holds")

    answer = session.ask(ask)
    rows = [
        (hold["model"] or hold["digest"], hold["version"], hold["at"], hold["by"], hold["reason"], hold["lifted_at"])
        for hold in answer["holds"]
    ]
    session.show_rows(answer, ("what", "version", "since", "by", "reason", "lifted"), rows)
