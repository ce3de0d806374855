"""Commands about who is who: login, logout, principals, groups."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.governance import call
from clave.cli.options import OutputOption
from clave.cli.output import Output, say
from clave.cli.session import Session, connected
from clave.failures import EnvironmentFailure
from clave.profile import Profile, forget_profile, write_profile

if TYPE_CHECKING:
    from clave_contracts.gateway import WhoAmI

    from clave.client import AsyncClient

_GROUP = "Access and audit"
PrincipalName = Annotated[str, typer.Argument(help="user:NAME, service_account:NAME or app:NAME.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=_GROUP)(login)
    app.command(rich_help_panel=_GROUP)(logout)
    principals = typer.Typer(no_args_is_help=True, help="Principals: users, service accounts, applications.")
    principals.command("create")(connected(create_principal))
    principals.command("list")(connected(list_principals))
    principals.command("show")(connected(show_principal))
    principals.command("update")(connected(update_principal))
    principals.command("delete")(connected(delete_principal))
    app.add_typer(principals, name="principals", rich_help_panel=_GROUP)
    groups = typer.Typer(no_args_is_help=True, help="Groups: who is in them, which roles they hold.")
    groups.command("list")(connected(list_groups))
    groups.command("add")(connected(join_group))
    groups.command("remove")(connected(leave_group))
    groups.command("delete")(connected(delete_group))
    app.add_typer(groups, name="groups", rich_help_panel=_GROUP)


def login(
    *,
    url: Annotated[str, typer.Argument(help="Address of the stack, such as https://clave.example.org.")],
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with an API key or a token of your identity provider; '-' reads it from stdin. "
            "Else CLAVE_API_KEY, else it is asked for.",
            show_default=False,
            allow_dash=True,
        ),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Authorities to trust (PEM).", exists=True, dir_okay=False, show_default=False)
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Choose a stack for every later command; its address and your key are kept in a 0600 file."""
    credential = _credential(key_file)
    if ca_file is not None:
        os.environ["CLAVE_CA_FILE"] = str(ca_file)
    session = Session(url=url, api_key=credential, data_dir=None, output=output)

    async def ask(client: "AsyncClient") -> "WhoAmI":
        return await client.whoami()

    answer = session.ask(ask)
    path = write_profile(Profile(url.rstrip("/"), credential, None if ca_file is None else ca_file.absolute()))
    session.show(
        answer, {"subject": answer.subject, "tenant": answer.tenant, "expires": answer.expires_at, "kept in": path}
    )
    say("CLAVE_URL, --url, and a stack that runs in the current folder go before it.")


def _credential(key_file: Path | None) -> str:
    if key_file is not None:
        text = _read_key(key_file)
    elif os.environ.get("CLAVE_API_KEY"):
        text = os.environ["CLAVE_API_KEY"]
    elif not sys.stdin.isatty():
        raise EnvironmentFailure(
            "There is no terminal to ask for the key.",
            remedy="Set CLAVE_API_KEY, or give --key-file FILE (`-` reads it from stdin).",
        )
    else:
        text = typer.prompt("API key or token", hide_input=True, err=True)
    credential = text.strip()
    if not credential or any(character.isspace() for character in credential):
        raise EnvironmentFailure("That is no key.", remedy="Make one with `clave keys create`.")
    return credential


def _read_key(file: Path) -> str:
    if str(file) == "-":
        return sys.stdin.read()
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFailure(
            f"The key file {file} cannot be read.", remedy="It holds the key and no more."
        ) from error


def logout(*, output: OutputOption = Output.TABLE) -> None:
    """Forget the address and the key of `clave login`; the key itself stays good until it is revoked."""
    session = Session(url=None, api_key=None, data_dir=None, output=output)
    existed = forget_profile()
    session.show({"forgotten": existed}, {"forgotten": "yes" if existed else "there was nothing"})


def create_principal(
    session: Session,
    *,
    name: PrincipalName,
    group: Annotated[list[str] | None, typer.Option(help="Put it into this group; repeat it.")] = None,
) -> None:
    """Make a user, service account or application; give it roles with 'clave bindings create'."""
    _show(session, call(session, "POST", "/principals", {"id": name, "groups": group or []}))


def list_principals(session: Session) -> None:
    """List the principals by name."""
    answer = call(session, "GET", "/principals")
    rows = [
        (item["id"], ", ".join(item["groups"]), "disabled" if item["disabled"] else "", item["created_by"])
        for item in answer["principals"]
    ]
    session.show_rows(answer, ("principal", "groups", "", "made by"), rows)


def show_principal(session: Session, *, name: PrincipalName) -> None:
    """Show one principal."""
    _show(session, call(session, "GET", f"/principals/{name}"))


def update_principal(
    session: Session,
    *,
    name: PrincipalName,
    disabled: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Refuse all it asks, or answer again.")
    ] = None,
) -> None:
    """Disable or enable a principal; every service follows within two seconds."""
    if disabled is None:
        raise typer.BadParameter("say --disable or --enable")
    _show(session, call(session, "PATCH", f"/principals/{name}", {"disabled": disabled}))


def delete_principal(session: Session, *, name: PrincipalName) -> None:
    """Disable a principal for good, revoke its keys, take its roles back."""
    call(session, "DELETE", f"/principals/{name}")
    session.show({"id": name, "deleted": True}, {"deleted": name})


def list_groups(session: Session) -> None:
    """List the groups, their members and roles."""
    answer = call(session, "GET", "/groups")
    rows = [(item["name"], ", ".join(item["members"]), ", ".join(item["roles"])) for item in answer["groups"]]
    session.show_rows(answer, ("group", "members", "roles"), rows)


def join_group(
    session: Session, *, group: Annotated[str, typer.Argument(help="Name of the group.")], name: PrincipalName
) -> None:
    """Put a principal into a group; it holds the group's roles from then on."""
    held = call(session, "GET", f"/principals/{name}")["groups"]
    _show(session, call(session, "PATCH", f"/principals/{name}", {"groups": sorted({*held, group})}))


def leave_group(
    session: Session, *, group: Annotated[str, typer.Argument(help="Name of the group.")], name: PrincipalName
) -> None:
    """Take a principal out of a group."""
    held = call(session, "GET", f"/principals/{name}")["groups"]
    _show(session, call(session, "PATCH", f"/principals/{name}", {"groups": sorted(set(held) - {group})}))


def delete_group(session: Session, *, group: Annotated[str, typer.Argument(help="Name of the group.")]) -> None:
    """Take everybody out of a group, and its roles back."""
    call(session, "DELETE", f"/groups/{group}")
    session.show({"group": group, "deleted": True}, {"deleted": group})


def _show(session: Session, answer: dict[str, Any]) -> None:
    session.show(
        answer,
        {
            "principal": answer["id"],
            "tenant": answer["tenant"],
            "groups": ", ".join(answer["groups"]),
            "disabled": "yes" if answer["disabled"] else "no",
        },
    )
