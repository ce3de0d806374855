"""Commands about who may do what, and what was done: whoami, keys, audit."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    keys.command("revoke")(connected(revoke_key))
    app.add_typer(keys, name="keys", rich_help_panel=_GROUP)
    audit = typer.Typer(no_args_is_help=True, help="The audit log: search, prove, verify, export.")
    audit.command("search")(connected(search_audit))
    audit.command("prove")(connected(prove_audit))
    audit.command("verify")(connected(verify_audit))
    audit.command("export")(connected(export_audit))
    app.add_typer(audit, name="audit", rich_help_panel=_GROUP)
    app.command(rich_help_panel=_GROUP)(connected(explain))
    policy = typer.Typer(no_args_is_help=True, help="The access policy.")
    policy.command("test")(test_policy)
    # One command alone would lose its name.
    policy.callback()(lambda: None)
    app.add_typer(policy, name="policy", rich_help_panel=_GROUP)


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


def prove_audit(
    session: Session, *, entry_id: Annotated[str, typer.Argument(help="Id of the entry, such as aud_...")]
) -> None:
    """Prove that one entry is in the log, in a form that can be checked without the log."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        from clave_contracts.gateway import API  # noqa: PLC0415 - only when something is asked

        return await client.gateway.get(dict[str, Any], f"{API}/audit/entries/{entry_id}/proof")

    answer = session.ask(ask)
    session.show(answer, {name: value for name, value in answer.items() if not isinstance(value, dict)})


def export_audit(
    session: Session, *, first: Annotated[int, typer.Option(min=0, help="Index of the first entry.")] = 0
) -> None:
    """Print the entries as ECS documents, one JSON line each."""

    async def ask(client: "AsyncClient") -> None:
        from clave_contracts.gateway import API  # noqa: PLC0415 - only when something is asked

        async with client.http.stream("GET", f"{API}/audit/export", params={"first": first}) as answer:
            if answer.is_error:
                await answer.aread()
                checked(answer)
            async for line in answer.aiter_lines():
                sys.stdout.write(line + "\n")

    from clave_contracts.problems import checked  # noqa: PLC0415 - see above

    session.ask(ask)


def explain(
    session: Session, *, decision_id: Annotated[str, typer.Argument(help="Id that a refusal carried, dec_...")]
) -> None:
    """Tell why a decision came out as it did, and what would be needed."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        from clave_contracts.gateway import API  # noqa: PLC0415 - only when something is asked

        return await client.gateway.get(dict[str, Any], f"{API}/decisions/{decision_id}")

    answer = session.ask(ask)
    decision = answer["decision"]
    facts = {
        "who": decision["subject"],
        "what": f"{decision['action']} on {decision['resource']}",
        "allowed": decision["allow"],
        "policy": decision["policy_version"],
    }
    session.show(answer, facts | {f"  {reason}": remedy for reason, remedy in answer["remedies"].items()})


def test_policy(
    *,
    cases: Annotated[
        Path | None, typer.Option(help="Worked decisions; those shipped when left out.", show_default=False)
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data to decide by.", show_default=False)] = None,
    engine: Annotated[str, typer.Option(help="embedded, or opa for a real server.")] = "embedded",
) -> None:
    """Run worked decisions against the policy; exit code 1 when one comes out otherwise."""
    options = {"--cases": cases, "--data": data, "--engine": engine}
    given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    # The gateway's own program decides: the command line holds no policy engine.
    done = subprocess.run([sys.executable, "-m", "clave_gateway", "policy-test", *given], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
