"""Commands about webhooks: create, list, show, switch, rotate, ping, delete, deliveries, redeliver."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.output import say
from clave.cli.session import Session, connected

if TYPE_CHECKING:
    from clave_contracts.registry import DeliveryPage, Webhook, WebhookPage

    from clave.client import AsyncClient

_GROUP = "Models and endpoints"
_ID = Annotated[str, typer.Argument(help="Id of the webhook, whk_...")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    webhooks = typer.Typer(no_args_is_help=True, help="Signed webhooks for what happens to models and endpoints.")
    webhooks.command("create")(connected(create))
    webhooks.command("list")(connected(list_webhooks))
    webhooks.command("show")(connected(show))
    webhooks.command("enable")(connected(_switch(enabled=True)))
    webhooks.command("disable")(connected(_switch(enabled=False)))
    webhooks.command("rotate")(connected(rotate))
    webhooks.command("ping")(connected(ping))
    webhooks.command("delete")(connected(delete))
    webhooks.command("deliveries")(connected(list_deliveries))
    webhooks.command("redeliver")(connected(redeliver))
    app.add_typer(webhooks, name="webhooks", rich_help_panel=_GROUP)


def _path(webhook_id: str = "") -> str:
    from clave_contracts.registry import API  # noqa: PLC0415

    return f"{API}/webhooks/{webhook_id}".rstrip("/")


def create(
    session: Session,
    *,
    address: Annotated[
        str, typer.Argument(help="Where to send, a URL; its host must be one that the operator allows.")
    ],
    event: Annotated[list[str] | None, typer.Option(help="Type of event to send; repeat. All when left out.")] = None,
    model: Annotated[str | None, typer.Option(help="Only events of this registered model.")] = None,
    form: Annotated[str, typer.Option("--format", help="cloudevents or openlineage.")] = "cloudevents",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Create a webhook and print its secret, which is shown only now."""

    async def ask(client: "AsyncClient") -> "Webhook":
        from clave_contracts.registry import Webhook, WebhookCreate  # noqa: PLC0415

        fields = {"url": address, "events": event or [], "model": model, "format": form, "description": description}
        return await client.registry.post(Webhook, _path(), WebhookCreate.model_validate(fields))

    _show(session, session.ask(ask))


def list_webhooks(session: Session) -> None:
    """List the webhooks."""

    async def ask(client: "AsyncClient") -> "WebhookPage":
        from clave_contracts.registry import WebhookPage  # noqa: PLC0415

        return await client.registry.get(WebhookPage, _path())

    answer = session.ask(ask)
    rows = [
        (one.id, one.url, ", ".join(one.events) or "all", one.model or "all", _state(one)) for one in answer.webhooks
    ]
    session.show_rows(answer, ("webhook", "url", "events", "model", "state"), rows)


def show(session: Session, *, webhook_id: _ID) -> None:
    """Show a webhook."""

    async def ask(client: "AsyncClient") -> "Webhook":
        from clave_contracts.registry import Webhook  # noqa: PLC0415

        return await client.registry.get(Webhook, _path(webhook_id))

    _show(session, session.ask(ask))


def _switch(*, enabled: bool) -> Any:
    def switch(session: Session, *, webhook_id: _ID) -> None:
        async def ask(client: "AsyncClient") -> "Webhook":
            from clave_contracts.registry import Webhook  # noqa: PLC0415

            answer = await client.registry.send("PATCH", _path(webhook_id), body={"enabled": enabled})
            return Webhook.model_validate_json(answer.content)

        _show(session, session.ask(ask))

    switch.__doc__ = "Switch a webhook on again." if enabled else "Switch a webhook off; its events are not kept."
    return switch


def rotate(session: Session, *, webhook_id: _ID) -> None:
    """Give a webhook a new secret; for a day deliveries are signed with both."""

    async def ask(client: "AsyncClient") -> "Webhook":
        from clave_contracts.registry import Webhook  # noqa: PLC0415

        return await client.registry.post(Webhook, f"{_path(webhook_id)}/rotate-secret")

    _show(session, session.ask(ask))


def ping(session: Session, *, webhook_id: _ID) -> None:
    """Send a webhook a WebhookPinged event, to see whether it arrives."""

    async def ask(client: "AsyncClient") -> None:
        await client.registry.send("POST", f"{_path(webhook_id)}/ping")

    session.ask(ask)
    say(f"Sent. See: clave webhooks deliveries {webhook_id}")


def delete(session: Session, *, webhook_id: _ID) -> None:
    """Delete a webhook and its delivery log."""

    async def ask(client: "AsyncClient") -> None:
        await client.registry.send("DELETE", _path(webhook_id))

    session.ask(ask)
    say(f"Deleted {webhook_id}.")


def list_deliveries(
    session: Session,
    *,
    webhook_id: _ID,
    status: Annotated[str | None, typer.Option(help="Only pending, delivered or failed ones.")] = None,
) -> None:
    """List what was, or is to be, delivered; newest first."""

    async def ask(client: "AsyncClient") -> "DeliveryPage":
        from clave_contracts.registry import DeliveryPage  # noqa: PLC0415

        return await client.registry.get(DeliveryPage, f"{_path(webhook_id)}/deliveries", status=status)

    answer = session.ask(ask)
    rows = [
        (one.id, one.event, one.status, len(one.attempts), _last(one.attempts), one.next_at, one.created_at)
        for one in answer.deliveries
    ]
    columns = ("delivery", "event", "status", "attempts", "last answer", "again at", "created")
    session.show_rows(answer, columns, rows)


def redeliver(
    session: Session,
    *,
    webhook_id: _ID,
    delivery_id: Annotated[str, typer.Argument(help="Id of the delivery, dlv_...")],
) -> None:
    """Send a delivery again."""

    async def ask(client: "AsyncClient") -> None:
        await client.registry.send("POST", f"{_path(webhook_id)}/deliveries/{delivery_id}/redeliver")

    session.ask(ask)
    say(f"{delivery_id} is due again.")


def _last(attempts: list[Any]) -> str:
    if not attempts:
        return ""
    return str(attempts[-1].error or attempts[-1].status)


def _state(webhook: "Webhook") -> str:
    return "on" if webhook.enabled else f"off: {webhook.disabled_reason or 'by hand'}"


def _show(session: Session, answer: "Webhook") -> None:
    facts = {
        "webhook": answer.id,
        "url": answer.url,
        "events": ", ".join(answer.events) or "all",
        "model": answer.model or "all",
        "format": answer.format,
        "state": _state(answer),
    }
    if answer.secret:
        facts["secret"] = answer.secret
    session.show(answer, facts)
