"""Commands about what was done: search the audit log, prove, verify and export it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.governance import call
from clave.cli.output import say
from clave.cli.session import Session, connected
from clave.failures import Failure

if TYPE_CHECKING:
    from clave_contracts.gateway import AuditPage, AuditVerification

    from clave.client import AsyncClient

_GROUP = "Access and audit"
_API = "/api/gateway/v1"
_SIZE_MAX = 2**53


def register(app: typer.Typer) -> None:
    """Add the commands."""
    audit = typer.Typer(no_args_is_help=True, help="The audit log: search, prove, verify, export.")
    audit.command("search")(connected(search_audit))
    audit.command("verify")(connected(verify_audit))
    audit.command("prove")(connected(prove))
    audit.command("checkpoint")(connected(show_checkpoint))
    audit.command("export")(connected(export_audit))
    app.add_typer(audit, name="audit", rich_help_panel=_GROUP)


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


def verify_audit(
    session: Session,
    *,
    proof: Annotated[
        Path | None, typer.Option(help="Check this kept proof instead, without a stack.", exists=True, dir_okay=False)
    ] = None,
    key: Annotated[str | None, typer.Option(help="Base64 key that the proof's log must have.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint kept elsewhere, an end of the proof.", exists=True, dir_okay=False)
    ] = None,
    signatures: Annotated[
        bool, typer.Option("--signatures", help="Also check that each entry's own service signed it; takes longer.")
    ] = False,
) -> None:
    """Prove that no audit entry was altered, dropped or reordered; or check a kept proof offline."""
    if proof is not None:
        _check_offline(session, proof, key, checkpoint)
        return

    async def ask(client: "AsyncClient") -> "AuditVerification":
        return await client.gateway.verify_audit(signatures=signatures)

    answer = session.ask(ask)
    session.show(
        answer, {"verdict": "whole" if answer.ok else answer.damage, "entries": answer.size, "root": answer.root}
    )
    if not answer.ok:
        raise Failure(f"The audit log is damaged ({answer.damage}) at entry {answer.first_bad}. {answer.detail}")


def _check_offline(session: Session, proof: Path, key: str | None, checkpoint: Path | None) -> None:
    given = {"--key": key, "--checkpoint": checkpoint}
    arguments = [part for name, value in given.items() if value for part in (name, str(value))]
    command = [sys.executable, "-m", "clave_gateway.audit_check", str(proof), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise Failure(done.stderr.strip() or "The proof could not be checked.")
    session.show({"holds": True, "proves": done.stdout.strip()}, {"proven": done.stdout.strip()})


def prove(
    session: Session,
    *,
    entry_id: Annotated[str | None, typer.Argument(help="Id of an audit entry.", show_default=False)] = None,
    since: Annotated[
        int | None, typer.Option("--from", min=1, max=_SIZE_MAX, help="Prove that the log of so many entries...")
    ] = None,
    until: Annotated[
        int | None, typer.Option("--to", min=1, max=_SIZE_MAX, help="...became the log of so many; now when absent.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Keep the proof here, for 'clave audit verify --proof'.")] = None,
) -> None:
    """Prove that an entry is in the audit log, or (--from) that the log only grew."""
    if (entry_id is None) == (since is None) or (until is not None and since is None):
        raise typer.BadParameter("name an entry, or --from SIZE with or without --to SIZE")
    answer = _inclusion(session, entry_id) if entry_id is not None else _consistency(session, since, until)
    if file is not None:
        file.write_text(json.dumps(answer, indent=1))
        say(f"Anybody can check it: clave audit verify --proof {file}")
    facts = {
        "entry": answer.get("canonical"),
        "index": f"{answer['index']} of {answer['size']}" if "index" in answer else None,
        "grew": f"from {answer['old_size']} to {answer['size']} entries" if "old_size" in answer else None,
        "hashes": len(answer["proof"]),
        "checkpoint": (answer["checkpoint"] or "").rstrip() or None,
    }
    session.show(answer, {name: value for name, value in facts.items() if value is not None})


def _inclusion(session: Session, entry_id: str) -> dict[str, Any]:
    return call(session, "GET", f"/audit/entries/{entry_id}/proof")


def _consistency(session: Session, old_size: int | None, size: int | None) -> dict[str, Any]:
    params = {"old_size": old_size} if size is None else {"old_size": old_size, "size": size}
    return call(session, "GET", "/audit/consistency", params=params)


def show_checkpoint(
    session: Session,
    *,
    file: Annotated[Path | None, typer.Option(help="Keep it here, away from the stack.")] = None,
) -> None:
    """Show the newest signed checkpoint: keep it elsewhere, and nobody can rewrite what lies before it unnoticed."""
    notes = call(session, "GET", "/audit/checkpoints")["checkpoints"]
    if not notes:
        raise Failure("The audit log has no checkpoint yet; one is signed every few seconds.")
    if file is not None:
        file.write_text(notes[-1])
    origin, size, root = notes[-1].splitlines()[:3]
    session.show({"checkpoint": notes[-1], "size": int(size)}, {"log": origin, "entries": size, "root": root})


def export_audit(
    session: Session,
    *,
    file: Annotated[Path, typer.Argument(help="Where to write the JSON lines.")],
    first: Annotated[int, typer.Option(min=0, help="Index of the first entry.")] = 0,
) -> None:
    """Export the audit log as ECS documents, one JSON line each (for ELK or OpenSearch)."""

    async def ask(client: "AsyncClient") -> int:
        response = await client.gateway.send("GET", f"{_API}/audit/export", params={"first": first})
        file.write_bytes(response.content)
        return response.content.count(b"\n")

    entries = session.ask(ask)
    session.show({"file": str(file), "entries": entries}, {"entries": entries, "file": file})
