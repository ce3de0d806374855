"""Commands about the rules themselves: roles, bindings, policies, lockdown."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.output import say
from clave.cli.session import Session, connected
from clave.failures import Failure

if TYPE_CHECKING:
    from clave.client import AsyncClient

_GROUP = "Access and audit"
_API = "/api/gateway/v1"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=_GROUP)(connected(explain))
    app.command(rich_help_panel=_GROUP)(connected(lockdown))
    roles = typer.Typer(no_args_is_help=True, help="Roles: what each permits.")
    roles.command("list")(connected(list_roles))
    app.add_typer(roles, name="roles", rich_help_panel=_GROUP)
    bindings = typer.Typer(no_args_is_help=True, help="Bindings: who holds which role, and where.")
    bindings.command("create")(connected(create_binding))
    bindings.command("list")(connected(list_bindings))
    bindings.command("delete")(connected(delete_binding))
    app.add_typer(bindings, name="bindings", rich_help_panel=_GROUP)
    policy = typer.Typer(no_args_is_help=True, help="The policy: test, upload, plan, activate, roll back.")
    policy.command("test")(try_policy)
    policy.command("list")(connected(list_policies))
    policy.command("upload")(connected(upload_policy))
    policy.command("plan")(connected(plan_policy))
    policy.command("activate")(connected(activate_policy))
    policy.command("rollback")(connected(roll_back_policy))
    app.add_typer(policy, name="policy", rich_help_panel=_GROUP)


def call(
    session: Session,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    params: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask the gateway's API."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        response = await client.gateway.send(method, f"{_API}{path}", body=body, params=params)
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer

    return session.ask(ask)


def explain(session: Session, *, decision_id: Annotated[str, typer.Argument(help="Id from a refusal.")]) -> None:
    """Explain a decision: run it again, and say what would be needed."""
    answer = call(session, "GET", f"/decisions/{decision_id}")
    decision, again = answer["decision"], answer["again"]
    facts = {
        "decision": "allowed" if decision["allow"] else "refused",
        "who": decision["subject"],
        "what": decision["action"],
        "on": decision["resource"],
        "when": decision["at"],
        "policy": f"{decision['policy_version']} ({decision['engine']})",
        "asked again": "the same answer" if again["same"] else f"now {'allowed' if again['allow'] else 'refused'}",
        **{
            f"{reason} ({answer['rules'][reason]})" if reason in answer["rules"] else reason: needed
            for reason, needed in answer["remedies"].items()
        },
    }
    session.show(answer, facts)


def list_roles(session: Session) -> None:
    """List the roles and what each permits."""
    answer = call(session, "GET", "/roles")
    rows = [(role["name"], ", ".join(role["inherits"]), ", ".join(role["permissions"])) for role in answer["roles"]]
    session.show_rows(answer, ("role", "inherits", "permits"), rows)


def create_binding(
    session: Session,
    *,
    subject: Annotated[str, typer.Argument(help="user:NAME, app:NAME, service_account:NAME or group:NAME.")],
    role: Annotated[str, typer.Option(help="Role to give; 'clave roles list' shows them.")],
    namespace: Annotated[
        list[str] | None, typer.Option(help="Only in these environments; repeat it.", show_default=False)
    ] = None,
    resource: Annotated[
        list[str] | None, typer.Option(help="Only on these, such as models/churn/**; repeat it.", show_default=False)
    ] = None,
) -> None:
    """Give a role; nobody gives more than they hold."""
    given = {"namespaces": namespace, "resources": resource}
    body = {"subject": subject, "role": role, **{name: value for name, value in given.items() if value}}
    answer = call(session, "POST", "/bindings", body)
    session.show(answer, {name: answer[name] for name in ("id", "subject", "role", "namespaces", "resources")})


def list_bindings(session: Session) -> None:
    """List who holds which role, newest first."""
    answer = call(session, "GET", "/bindings")
    rows = [
        (item["id"], item["subject"], item["role"], ", ".join(item["namespaces"]), ", ".join(item["resources"]))
        for item in answer["bindings"]
    ]
    session.show_rows(answer, ("id", "subject", "role", "environments", "resources"), rows)


def delete_binding(session: Session, *, binding_id: Annotated[str, typer.Argument(help="Id of the binding.")]) -> None:
    """Take a role back; every service follows within two seconds."""
    call(session, "DELETE", f"/bindings/{binding_id}")
    session.show({"id": binding_id, "deleted": True}, {"deleted": binding_id})


def lockdown(
    session: Session,
    *,
    state: Annotated[str, typer.Argument(help="on or off.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")],
) -> None:
    """Refuse every change, or allow changes again; reads and predictions go on."""
    if state not in {"on", "off"}:
        raise typer.BadParameter("say 'on' or 'off'")
    answer = call(session, "PUT", "/lockdown", {"on": state == "on", "reason": reason})
    session.show(answer, {"lockdown": "on" if answer["on"] else "off"})


def try_policy(
    *,
    cases: Annotated[Path | None, typer.Option(help="File of worked decisions.", exists=True, dir_okay=False)] = None,
    data: Annotated[Path | None, typer.Option(help="Data to decide by.", exists=True, dir_okay=False)] = None,
    policy: Annotated[Path | None, typer.Option(help="Folder of .rego files.", exists=True, file_okay=False)] = None,
    engine: Annotated[str, typer.Option(help="embedded, or opa (a real one, on PATH).")] = "embedded",
) -> None:
    """Run worked decisions against a policy, on this machine and without a stack."""
    given = {"--cases": cases, "--data": data, "--policy": policy, "--engine": engine}
    arguments = [part for name, value in given.items() if value for part in (name, str(value))]
    done = subprocess.run([sys.executable, "-m", "clave_gateway", "policy-test", *arguments], check=False)
    if done.returncode:
        raise typer.Exit(1)


def list_policies(session: Session) -> None:
    """List the policies; one is in force."""
    answer = call(session, "GET", "/policies")
    rows = [
        (item["version"], "in force" if item["version"] == answer["active"] else "", item["origin"], item["note"],
         item["created_by"], item["activated_at"])
        for item in answer["policies"]
    ]  # fmt: skip
    session.show_rows(answer, ("version", "", "origin", "note", "by", "activated"), rows)


def upload_policy(
    session: Session,
    *,
    modules: Annotated[
        Path | None, typer.Option(help="Folder of .rego files; today's when absent.", exists=True, file_okay=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="JSON file of the data; today's when absent.", exists=True, dir_okay=False)
    ] = None,
    note: Annotated[str, typer.Option(help="What changes, and why.")] = "",
) -> None:
    """Upload a candidate; it must compile, and takes effect only when activated."""
    body: dict[str, Any] = {"note": note}
    if modules is not None:
        body["modules"] = {path.name: path.read_text() for path in sorted(modules.glob("*.rego"))}
    if data is not None:
        body["data"] = _data_of(data)
    answer = call(session, "POST", "/policies", body)
    session.show(answer, {"version": answer["version"], "digest": answer["digest"]})
    say(f"Next: clave policy plan {answer['version']}")


def _data_of(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise Failure(f"{path} is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise Failure(f"{path} does not hold an object.")
    data: dict[str, Any] = document.get("clave", document)
    return data


def plan_policy(session: Session, *, version: Annotated[int, typer.Argument(help="Version to plan.")]) -> None:
    """Run the decision matrix, a fuzz and a replay of recent decisions on a candidate."""
    answer = call(session, "POST", f"/policies/{version}/plan")
    session.show(
        answer,
        {
            "ready": "yes" if answer["ready"] else "no",
            "cases": f"{answer['cases'] - len(answer['failed_cases'])} of {answer['cases']} pass",
            "fuzz": f"{answer['fuzzed']} spoilt questions, {len(answer['failed_fuzz'])} wrong",
            "engines": ", ".join(answer["engines"]),
            "replayed": f"{answer['replayed']} decisions, {len(answer['differences'])} come out differently",
            **{
                f"{change['subject']} {change['action']}": f"{_answer(change['was'])} -> {_answer(change['becomes'])}"
                for change in answer["differences"]
            },
        },
    )


def _answer(decision: dict[str, Any]) -> str:
    return "allowed" if decision["allow"] else ", ".join(decision["reasons"])


def activate_policy(
    session: Session,
    *,
    version: Annotated[int, typer.Argument(help="Version to activate.")],
    accept_differences: Annotated[
        int, typer.Option(min=0, help="How many recent decisions come out differently, as the plan shows.")
    ] = 0,
) -> None:
    """Put a planned policy in force; every service follows within two seconds."""
    body = {"accept_differences": accept_differences}
    answer = call(session, "POST", f"/policies/{version}/activate", body)
    session.show(answer, {"in force": answer["version"], "digest": answer["digest"]})


def roll_back_policy(session: Session) -> None:
    """Put the policy back in force that was before."""
    answer = call(session, "POST", "/policies/rollback")
    session.show(answer, {"in force": answer["version"], "digest": answer["digest"]})


def rotate_key(session: Session, *, key_id: Annotated[str, typer.Argument(help="Id of the key.")]) -> None:
    """Make a successor with the same rights; the old key works on until it is revoked."""
    answer = call(session, "POST", f"/keys/{key_id}/rotate")
    session.show(answer, {name: answer[name] for name in ("id", "key", "principal", "expires_at")})
    say(f"This key is shown once. When it is in use: clave keys revoke {key_id}")
