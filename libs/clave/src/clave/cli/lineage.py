"""Commands about lineage: what a version was made from, what was made from data, what holds a customer."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.session import Session, connected
from clave.failures import Refused

if TYPE_CHECKING:
    from clave.client import AsyncClient

_GROUP = "Models and endpoints"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    lineage = typer.Typer(no_args_is_help=True, help="Where versions come from, and where data went.")
    lineage.command("version")(connected(of_version))
    lineage.command("dataset")(connected(of_dataset))
    lineage.command("entity")(connected(of_entity))
    app.add_typer(lineage, name="lineage", rich_help_panel=_GROUP)


def of_version(
    session: Session,
    *,
    model: Annotated[str, typer.Argument(help="Name of the registered model.")],
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
) -> None:
    """Show what a version was made from, its ancestors, and where it answered."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        from clave_contracts.registry import API  # noqa: PLC0415

        return await client.registry.get(dict[str, Any], f"{API}/models/{model}/versions/{version}/lineage")

    answer = session.ask(ask)
    lineage = answer["lineage"]
    session.show(
        answer,
        {
            "version": f"{model} v{version}",
            "run": lineage.get("run_id"),
            "pipeline": lineage.get("pipeline"),
            "code": lineage.get("code_version"),
            "environment": lineage.get("environment_digest"),
            "training sets": ", ".join(f"{d['name']} sha256:{d['digest']}" for d in lineage.get("datasets") or []),
            "ancestors": ", ".join(f"v{one['version']}" for one in answer["ancestors"]),
            "answered for": ", ".join(f"{one['endpoint']} since {one['since']}" for one in answer["endpoints"]),
        },
    )


def of_dataset(
    session: Session,
    *,
    dataset: Annotated[str, typer.Argument(help="Id (ts_...) or sha256 of a training set.")],
) -> None:
    """List the versions that were made from a training set, and where they answer now."""
    named = {"dataset_id": dataset} if dataset.startswith("ts_") else {"dataset_digest": dataset}

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        from clave_contracts.registry import API  # noqa: PLC0415

        return await client.registry.get(dict[str, Any], f"{API}/lineage", **named)

    answer = session.ask(ask)
    rows = [
        (one["model"], one["version"], one["status"], ", ".join(one["endpoints"]), one["created_at"])
        for one in answer["versions"]
    ]
    session.show_rows(answer, ("model", "version", "status", "endpoints", "created"), rows)


def of_entity(
    session: Session,
    *,
    keys: Annotated[list[str], typer.Argument(help="Keys of the entity, NAME=VALUE.")],
) -> None:
    """Say what must be retrained when this customer withdraws consent."""
    named = dict(_pair(text) for text in keys)

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        from clave_contracts.registry import API  # noqa: PLC0415

        return await client.registry.post(dict[str, Any], f"{API}/lineage/entity", {"keys": named})

    answer = session.ask(ask)
    retrain = {one["endpoint"] for one in answer["must_retrain"]}
    rows = [
        (
            one["model"],
            one["version"],
            one["status"],
            ", ".join(one["training_sets"]),
            ", ".join(f"{name}: RETRAIN" if name in retrain else name for name in one["endpoints"]),
        )
        for one in answer["versions"]
    ]
    session.show_rows(answer, ("model", "version", "status", "training sets", "answers for"), rows)


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise Refused(f"A key is NAME=VALUE, for example customer_id=7590-VHVEG; not '{text}'.")
    return name, value
