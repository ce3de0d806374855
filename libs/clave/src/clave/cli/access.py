"""Commands about who may do what, and what was done: whoami, keys, audit."""

from typing import TYPE_CHECKING, Annotated

import typer

from clave.cli.governance import export_audit, prove_entry, rotate_key
from clave.cli.output import say
from clave.cli.session import Session, connected
from clave.failures import Failure

if TYPE_CHECKING:
    from clave_contracts.gateway import AuditPage, AuditVerification, KeyPage, NewKey, WhoAmI

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
    audit = typer.Typer(no_args_is_help=True, help="The audit log: search, prove, verify, export.")
    audit.command("search")(connected(search_audit))
    audit.command("verify")(connected(verify_audit))
    audit.command("prove")(connected(prove_entry))
    audit.command("export")(connected(export_audit))
    app.add_typer(audit, name="audit", rich_help_panel=_GROUP)


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


def search_audit(
    session: Session,
    *,
    action: Annotated[str | None, typer.Option(help="Only this action.", show_default=False)] = None,
    actor: Annotated[str | None, typer.Option(help="Only this principal.", show_default=False)] = None,
    resource: Annotated[str | None, typer.Option(help="Only this resource.", show_default=False)] = None,
    page_size: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
) -> None:
    """Show who did what, newest first."""

    async def ask(client: "AsyncClient") -> "AuditPage":
        return await client.gateway.audit(action=action, actor=actor, resource=resource, page_size=page_size)

    answer = session.ask(ask)
    rows = [
        (
            record.index,
            record.entry.get("time"),
            record.entry.get("actor"),
            record.entry.get("action"),
            record.entry.get("resource"),
            record.entry.get("outcome"),
        )
        for record in answer.records
    ]
    session.show_rows(answer, ("index", "time", "actor", "action", "resource", "outcome"), rows)


def verify_audit(session: Session) -> None:
    """Prove that no audit entry was altered, dropped or reordered."""

    async def ask(client: "AsyncClient") -> "AuditVerification":
        return await client.gateway.verify_audit()

    answer = session.ask(ask)
    session.show(
        answer, {"verdict": "whole" if answer.ok else answer.damage, "entries": answer.size, "root": answer.root}
    )
    if not answer.ok:
        raise Failure(f"The audit log is damaged ({answer.damage}) at entry {answer.first_bad}. {answer.detail}")
