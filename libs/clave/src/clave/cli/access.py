"""Commands about the caller and its keys: whoami, keys."""

from typing import TYPE_CHECKING, Annotated

import typer

from clave.cli.governance import rotate_key
from clave.cli.output import say
from clave.cli.session import Session, connected

if TYPE_CHECKING:
    from clave_contracts.gateway import KeyPage, NewKey, WhoAmI

    from clave.client import AsyncClient

_GROUP = "Access and audit"
_DAY_S = 86_400


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=_GROUP)(connected(whoami))
    keys = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")
    keys.command("create")(connected(create_key))
    keys.command("list")(connected(list_keys))
    keys.command("rotate")(connected(rotate_key))
    keys.command("revoke")(connected(revoke_key))
    app.add_typer(keys, name="keys", rich_help_panel=_GROUP)


def whoami(session: Session) -> None:
    """Show whose key is in use, and what it may do."""

    async def ask(client: "AsyncClient") -> "WhoAmI":
        return await client.whoami()

    answer = session.ask(ask)
    facts = {
        "subject": answer.subject,
        "tenant": answer.tenant,
        "roles": ", ".join(answer.roles),
        "scopes": ", ".join(answer.scopes),
        "expires": answer.expires_at,
        "key": answer.key_id,
    }
    session.show(answer, facts)


def create_key(
    session: Session,
    *,
    name: Annotated[str, typer.Option(help="Names the key and the principal it speaks for.")],
    role: Annotated[str, typer.Option(help="Role, such as scoring-app, data-scientist, ml-engineer, viewer.")],
    kind: Annotated[str, typer.Option(help="app, user or service_account.")] = "app",
    namespace: Annotated[
        list[str] | None, typer.Option(help="Only these environments; repeat it.", show_default=False)
    ] = None,
    scope: Annotated[list[str] | None, typer.Option(help="Only these actions; repeat it.", show_default=False)] = None,
    expires_days: Annotated[int, typer.Option(min=1, max=366, help="Days until it expires.")] = 90,
) -> None:
    """Make an API key and show it once; nobody can show it again."""

    async def ask(client: "AsyncClient") -> "NewKey":
        from clave_contracts.gateway import KeyCreate  # noqa: PLC0415

        given = {"kind": kind, "namespaces": namespace, "scopes": scope, "expires_in_s": expires_days * _DAY_S}
        wanted = {name: value for name, value in given.items() if value}
        return await client.gateway.create_key(KeyCreate.model_validate({"name": name, "role": role, **wanted}))

    answer = session.ask(ask)
    session.show(
        answer,
        {
            "id": answer.id,
            "key": answer.key,
            "principal": answer.principal,
            "role": answer.role,
            "expires": answer.expires_at,
        },
    )
    say("This key is shown once. Give it to programs as CLAVE_API_KEY.")


def list_keys(session: Session) -> None:
    """List the keys; their secrets are stored nowhere."""

    async def ask(client: "AsyncClient") -> "KeyPage":
        return await client.gateway.keys()

    answer = session.ask(ask)
    rows = [
        (key.id, key.name, key.principal, key.created_at, key.expires_at, key.last_used_at, key.revoked_at)
        for key in answer.keys
    ]
    session.show_rows(answer, ("id", "name", "principal", "created", "expires", "last used", "revoked"), rows)


def revoke_key(session: Session, *, key_id: Annotated[str, typer.Argument(help="Id of the key.")]) -> None:
    """Revoke a key; it stops working everywhere within two seconds."""

    async def ask(client: "AsyncClient") -> None:
        await client.gateway.revoke_key(key_id)

    session.ask(ask)
    session.show({"id": key_id, "revoked": True}, {"revoked": key_id})
