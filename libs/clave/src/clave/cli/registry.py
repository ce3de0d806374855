"""Commands about models and where they answer: models, endpoints."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.output import Output, show_json
from clave.cli.session import Session, connected
from clave.failures import Failure, Refused

if TYPE_CHECKING:
    from clave_contracts.registry import Endpoint, Model, Version

    from clave.client import AsyncClient

_GROUP = "Models and endpoints"
_MODEL = Annotated[str, typer.Argument(help="Name of the registered model.")]
_ENDPOINT = Annotated[str, typer.Argument(help="Name of the endpoint.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    models = typer.Typer(no_args_is_help=True, help="Registered models: create, list, show, card, aliases.")
    models.command("create")(connected(create_model))
    models.command("list")(connected(list_models))
    models.command("show")(connected(show_model))
    models.command("card")(connected(show_card))
    models.command("alias")(connected(point_alias))
    models.command("alias-history")(connected(show_alias_history))
    app.add_typer(models, name="models", rich_help_panel=_GROUP)
    endpoints = typer.Typer(no_args_is_help=True, help="Endpoints: create, list, show, history, roll-back.")
    endpoints.command("create")(connected(create_endpoint))
    endpoints.command("list")(connected(list_endpoints))
    endpoints.command("show")(connected(show_endpoint))
    endpoints.command("history")(connected(show_history))
    endpoints.command("roll-back")(connected(roll_back))
    app.add_typer(endpoints, name="endpoints", rich_help_panel=_GROUP)


def create_model(
    session: Session,
    *,
    model: _MODEL,
    risk_class: Annotated[
        str, typer.Option(help="minimal, limited or high: how many people approve, and what the card must say.")
    ] = "minimal",
    description: Annotated[str, typer.Option(help="What it predicts.")] = "",
) -> None:
    """Create a registered model (MLflow's clients create theirs as minimal)."""

    async def ask(client: "AsyncClient") -> "Model":
        from clave_contracts.registry import API, Model  # noqa: PLC0415

        body = {"name": model, "risk_class": risk_class, "description": description}
        return await client.registry.post(Model, f"{API}/models", body)

    answer = session.ask(ask)
    session.show(answer, {"model": answer.name, "risk class": answer.risk_class, "created by": answer.created_by})


def point_alias(
    session: Session,
    *,
    model: _MODEL,
    alias: Annotated[str, typer.Argument(help="Name of the alias, such as champion.")],
    version: Annotated[int, typer.Argument(min=1, help="Version that it names from now on.")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the alias's history.")] = "",
) -> None:
    """Let an alias name a version."""

    async def ask(client: "AsyncClient") -> "Model":
        from clave_contracts.registry import API, Model  # noqa: PLC0415

        body = {"version": version, "reason": reason}
        answer = await client.registry.send("PUT", f"{API}/models/{model}/aliases/{alias}", body=body)
        return Model.model_validate(answer.json())

    answer = session.ask(ask)
    session.show(answer, {"model": answer.name, "aliases": _aliases(answer.aliases)})


def show_alias_history(
    session: Session,
    *,
    model: _MODEL,
    alias: Annotated[str, typer.Argument(help="Name of the alias, such as champion.")],
) -> None:
    """Show which version an alias named when, who moved it, and why; newest first."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        from clave_contracts.registry import API  # noqa: PLC0415

        return await client.registry.get(dict[str, Any], f"{API}/models/{model}/aliases/{alias}/history")

    answer = session.ask(ask)
    rows = [
        ("removed" if move["version"] is None else move["version"], move["at"], move["by"], move["reason"])
        for move in answer["moves"]
    ]
    session.show_rows(answer, ("version", "since", "by", "reason"), rows)


def list_models(session: Session) -> None:
    """List the registered models."""

    async def ask(client: "AsyncClient") -> Any:
        from clave_contracts.registry import API, ModelPage  # noqa: PLC0415

        return await client.registry.get(ModelPage, f"{API}/models")

    answer = session.ask(ask)
    rows = [
        (model.name, model.latest_version, _aliases(model.aliases), model.created_by, model.description)
        for model in answer.models
    ]
    session.show_rows(answer, ("model", "latest", "aliases", "created by", "description"), rows)


def show_model(session: Session, *, model: _MODEL) -> None:
    """Show a model and its versions."""

    async def ask(client: "AsyncClient") -> "tuple[Model, list[Version]]":
        from clave_contracts.registry import API, Model, VersionPage  # noqa: PLC0415

        described = await client.registry.get(Model, f"{API}/models/{model}")
        page = await client.registry.get(VersionPage, f"{API}/models/{model}/versions")
        return described, page.versions

    described, found = session.ask(ask)
    answer = {
        "model": described.model_dump(mode="json"),
        "versions": [version.model_dump(mode="json") for version in found],
    }
    rows = [
        (
            version.version,
            version.status,
            ", ".join(version.aliases),
            _metric(version, "auc"),
            _metric(version, "log_loss"),
            version.approved_by,
            version.created_at,
        )
        for version in found
    ]
    columns = ("version", "status", "aliases", "test AUC", "test log loss", "approved by", "created")
    session.show_rows(answer, columns, rows)


def show_card(
    session: Session,
    *,
    model: _MODEL,
    version: Annotated[
        int | None, typer.Argument(min=1, help="Version; the latest when left out.", show_default=False)
    ] = None,
) -> None:
    """Print a version's model card: Markdown, or JSON with --output json."""
    as_json = session.output is Output.JSON

    async def ask(client: "AsyncClient") -> Any:
        from clave_contracts.registry import API, Model  # noqa: PLC0415

        chosen = version or (await client.registry.get(Model, f"{API}/models/{model}")).latest_version
        if chosen is None:
            raise Failure(f"{model!r} has no version yet.", remedy=f"`clave versions create {model} FILE` makes one.")
        accept = "application/json" if as_json else "text/markdown"
        answer = await client.registry.send(
            "GET", f"{API}/models/{model}/versions/{chosen}/card", headers={"accept": accept}
        )
        return answer.json() if as_json else answer.text

    card = session.ask(ask)
    if as_json:
        show_json(card)
    else:
        typer.echo(card)


def create_endpoint(
    session: Session,
    *,
    endpoint: _ENDPOINT,
    model: Annotated[str, typer.Option(help="Registered model that answers there.")],
    version: Annotated[
        int | None, typer.Option(min=1, help="Version to put live at once; none when left out.", show_default=False)
    ] = None,
    namespace: Annotated[
        str, typer.Option(help="Development, Staging or Production: whose rules hold.")
    ] = "Production",
    description: Annotated[str, typer.Option(help="Who asks it, and for what.")] = "",
) -> None:
    """Create an endpoint; its first version may go live at once, every later one goes by a rollout."""

    async def ask(client: "AsyncClient") -> "Endpoint":
        from clave_contracts.registry import API, Endpoint  # noqa: PLC0415

        body = {
            "name": endpoint,
            "model": model,
            "version": version,
            "namespace": namespace,
            "description": description,
        }
        return await client.registry.post(Endpoint, f"{API}/endpoints", body)

    answer = session.ask(ask)
    facts = {"endpoint": answer.name, "namespace": answer.namespace, "live version": answer.live_version or "none yet"}
    session.show(answer, facts)


def list_endpoints(session: Session) -> None:
    """List the endpoints."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        from clave_contracts.registry import API  # noqa: PLC0415

        return await client.registry.get(dict[str, Any], f"{API}/endpoints")

    answer = session.ask(ask)
    rows = [
        (item["name"], item["model"], item["namespace"], item.get("live_version"), _routes(item), item.get("in_sync"))
        for item in answer.get("endpoints", [])
    ]
    session.show_rows(answer, ("endpoint", "model", "namespace", "live", "traffic", "in sync"), rows)


def show_endpoint(session: Session, *, endpoint: _ENDPOINT) -> None:
    """Show where an endpoint's traffic goes, as desired and as observed."""

    async def ask(client: "AsyncClient") -> "Endpoint":
        return await client.registry.endpoint(endpoint)

    answer = session.ask(ask)
    session.show(
        answer,
        {
            "endpoint": answer.name,
            "model": answer.model,
            "namespace": answer.namespace,
            "live version": answer.live_version,
            "previous version": answer.previous_version,
            "traffic": _routes(answer.model_dump(mode="json")),
            "rollout": answer.rollout_id,
            "in sync": answer.in_sync,
        },
    )


def show_history(
    session: Session,
    *,
    endpoint: _ENDPOINT,
    at: Annotated[
        str | None, typer.Option(help="Only the version that answered then, for example 2026-11-22T08:00:00Z.")
    ] = None,
) -> None:
    """Show which version answered when, approved by whom, made from what."""
    if at is not None:
        _require_moment(at)

    async def ask(client: "AsyncClient") -> Any:
        from clave_contracts.registry import API  # noqa: PLC0415

        return await client.registry.get(dict[str, Any], f"{API}/endpoints/{endpoint}/history", at=at)

    answer = session.ask(ask)
    rows = [
        (
            item["version"],
            item["since"],
            item.get("until"),
            item["by"],
            ", ".join(item["approved_by"]),
            ", ".join(f"{data['name']} ({data['rows']} rows)" for data in item["datasets"]),
            item["reason"],
        )
        for item in answer["entries"]
    ]
    session.show_rows(answer, ("version", "since", "until", "by", "approved by", "made from", "reason"), rows)


def _require_moment(text: str) -> None:
    from datetime import datetime  # noqa: PLC0415

    try:
        aware = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise Refused(f"A moment is a time with its zone, for example 2026-11-22T08:00:00Z; not '{text}'.")


def roll_back(
    session: Session,
    *,
    endpoint: _ENDPOINT,
    reason: Annotated[str, typer.Option(help="Why; it is written to the audit log.")],
) -> None:
    """Put the previous version back at once."""

    async def ask(client: "AsyncClient") -> "Endpoint":
        from clave_contracts.registry import API, Endpoint  # noqa: PLC0415

        return await client.registry.post(Endpoint, f"{API}/endpoints/{endpoint}/roll-back", {"reason": reason})

    answer = session.ask(ask)
    session.show(answer, {"endpoint": answer.name, "live version": answer.live_version})


def _aliases(aliases: dict[str, int]) -> str:
    return ", ".join(f"{name}={number}" for name, number in aliases.items())


def _metric(version: "Version", name: str) -> str:
    value = version.evaluation.metrics.get("test", {}).get(name) if version.evaluation else None
    return "" if value is None else f"{value:.4f}"


def _routes(endpoint: dict[str, Any]) -> str:
    return ", ".join(
        f"v{route['version']} {route['arm']} {route['weight']:.0%}" for route in endpoint.get("routes", [])
    )
