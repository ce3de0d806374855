"""Commands about models and where they answer: models, versions, endpoints, rollout."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.output import Output, say, show_facts, show_json
from clave.cli.session import Session, connected
from clave.failures import Refused

if TYPE_CHECKING:
    from clave_contracts.registry import Endpoint, Model, Rollout, Version

    from clave.client import AsyncClient

_GROUP = "Models and endpoints"
_OVER = {"promoted", "rolled_back", "aborted"}
_POLL_S = 1.0
_MODEL = Annotated[str, typer.Argument(help="Name of the registered model.")]
_VERSION = Annotated[int, typer.Argument(min=1, help="Number of the version.")]
_ENDPOINT = Annotated[str, typer.Argument(help="Name of the endpoint.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    models = typer.Typer(no_args_is_help=True, help="Registered models: list, show, card.")
    models.command("list")(connected(list_models))
    models.command("show")(connected(show_model))
    models.command("card")(connected(show_card))
    app.add_typer(models, name="models", rich_help_panel=_GROUP)
    versions = typer.Typer(no_args_is_help=True, help="Model versions: approve, reject.")
    versions.command("approve")(connected(approve))
    versions.command("reject")(connected(reject))
    app.add_typer(versions, name="versions", rich_help_panel=_GROUP)
    endpoints = typer.Typer(no_args_is_help=True, help="Endpoints: list, show, history, roll-back.")
    endpoints.command("list")(connected(list_endpoints))
    endpoints.command("show")(connected(show_endpoint))
    endpoints.command("history")(connected(show_history))
    endpoints.command("roll-back")(connected(roll_back))
    app.add_typer(endpoints, name="endpoints", rich_help_panel=_GROUP)
    rollout = typer.Typer(no_args_is_help=True, help="The rollout of an endpoint: watch, pause, resume, abort.")
    rollout.command("watch")(connected(watch))
    for verb in ("pause", "resume", "abort"):
        rollout.command(verb)(connected(_steer(verb)))
    app.add_typer(rollout, name="rollout", rich_help_panel=_GROUP)


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


def approve(
    session: Session,
    *,
    model: _MODEL,
    version: _VERSION,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    namespace: Annotated[str, typer.Option(help="For which environment.")] = "Production",
) -> None:
    """Approve a submitted version."""
    _decide(session, "approve", model, version, comment=comment, namespace=namespace)


def reject(
    session: Session,
    *,
    model: _MODEL,
    version: _VERSION,
    comment: Annotated[str, typer.Option(help="Why.")],
    namespace: Annotated[str, typer.Option(help="For which environment.")] = "Production",
) -> None:
    """Reject a submitted version."""
    _decide(session, "reject", model, version, comment=comment, namespace=namespace)


def _decide(session: Session, verb: str, model: str, version: int, *, comment: str, namespace: str) -> None:
    async def ask(client: "AsyncClient") -> "Version":
        from clave_contracts.registry import API, ApprovalRequest, Version  # noqa: PLC0415

        request = ApprovalRequest.model_validate({"comment": comment, "namespace": namespace})
        return await client.registry.post(Version, f"{API}/models/{model}/versions/{version}/{verb}", request)

    answer = session.ask(ask)
    approvals = sum(1 for item in answer.approvals if item.decision == "approve")
    session.show(
        answer,
        {
            "version": f"{answer.model} v{answer.version}",
            "status": answer.status,
            "approvals": f"{approvals} of {answer.approvals_needed}",
        },
    )


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


def show_history(session: Session, *, endpoint: _ENDPOINT) -> None:
    """Show which version answered when, and who decided it."""

    async def ask(client: "AsyncClient") -> Any:
        from clave_contracts.registry import API  # noqa: PLC0415

        return await client.registry.get(dict[str, Any], f"{API}/endpoints/{endpoint}/history")

    answer = session.ask(ask)
    rows = [
        (item["version"], item["since"], item.get("until"), item["by"], item["reason"])
        for item in answer.get("entries", answer.get("history", []))
    ]
    session.show_rows(answer, ("version", "since", "until", "by", "reason"), rows)


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


def watch(session: Session, *, endpoint: _ENDPOINT) -> None:
    """Follow the endpoint's rollout until it has ended; exit code 4 when it was rolled back or aborted."""

    async def ask(client: "AsyncClient") -> "Rollout":
        rollout = await _current(client, endpoint)
        told = 0
        while True:
            for event in rollout.events[told:]:
                say(f"{event.at:%H:%M:%S}  {event.state:<12} {event.weight:>4.0%}  {event.detail}")
            told = len(rollout.events)
            if rollout.state in _OVER:
                return rollout
            await asyncio.sleep(_POLL_S)
            rollout = await client.registry.rollout(rollout.id)

    rollout = session.ask(ask)
    _show_rollout(session, rollout)
    if rollout.state != "promoted":
        raise Refused(f"v{rollout.version} of {rollout.model} did not go live: {rollout.outcome or rollout.state}.")


def _steer(verb: str) -> Any:
    def steer(
        session: Session,
        *,
        endpoint: _ENDPOINT,
        reason: Annotated[str, typer.Option(help="Why; it is written to the audit log.")] = "",
    ) -> None:
        async def ask(client: "AsyncClient") -> "Rollout":
            from clave_contracts.registry import API, Rollout  # noqa: PLC0415

            rollout = await _current(client, endpoint)
            return await client.registry.post(Rollout, f"{API}/rollouts/{rollout.id}/{verb}", {"reason": reason})

        _show_rollout(session, session.ask(ask))

    steer.__doc__ = f"{verb.capitalize()} the endpoint's rollout."
    return steer


async def _current(client: "AsyncClient", endpoint: str) -> "Rollout":
    found = await client.registry.endpoint(endpoint)
    if found.rollout_id is None:
        raise Refused(f"Endpoint {endpoint} has no rollout under way.")
    return await client.registry.rollout(found.rollout_id)


def _show_rollout(session: Session, rollout: "Rollout") -> None:
    facts = {
        "rollout": rollout.id,
        "version": f"{rollout.model} v{rollout.version} (from v{rollout.from_version})",
        "state": rollout.state,
        "weight": f"{rollout.weight:.0%}",
        "outcome": rollout.outcome,
    }
    if session.output is Output.JSON:
        show_json(rollout.model_dump(mode="json"))
    else:
        show_facts(facts)


def _aliases(aliases: dict[str, int]) -> str:
    return ", ".join(f"{name}={number}" for name, number in aliases.items())


def _metric(version: "Version", name: str) -> str:
    value = version.evaluation.metrics.get("test", {}).get(name) if version.evaluation else None
    return "" if value is None else f"{value:.4f}"


def _routes(endpoint: dict[str, Any]) -> str:
    return ", ".join(
        f"v{route['version']} {route['arm']} {route['weight']:.0%}" for route in endpoint.get("routes", [])
    )
