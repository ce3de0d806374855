"""Commands about model versions: create, show, submit, approve, reject, archive, history, ML-BOM, signatures."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.output import say, show_json
from clave.cli.session import Session, connected
from clave.failures import EnvironmentFailure, Failure, Refused

if TYPE_CHECKING:
    from clave_contracts.registry import Version, VersionSignatures

    from clave.client import AsyncClient

_GROUP = "Models and endpoints"
_MODEL = Annotated[str, typer.Argument(help="Name of the registered model.")]
_VERSION = Annotated[int, typer.Argument(min=1, help="Number of the version.")]
_NAMESPACE = Annotated[str, typer.Option(help="For which environment.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    versions = typer.Typer(
        no_args_is_help=True, help="Model versions: create, show, submit, approve, reject, archive, sign."
    )
    versions.command("create")(connected(create))
    versions.command("show")(connected(show_version))
    versions.command("submit")(connected(submit))
    versions.command("approve")(connected(approve))
    versions.command("reject")(connected(reject))
    versions.command("archive")(connected(archive))
    versions.command("history")(connected(show_history))
    versions.command("ml-bom")(connected(show_ml_bom))
    versions.command("sign")(connected(sign))
    versions.command("add-signature")(connected(add_signature))
    versions.command("signatures")(connected(show_signatures))
    app.add_typer(versions, name="versions", rich_help_panel=_GROUP)


def _path(model: str, version: int) -> str:
    from clave_contracts.registry import API  # noqa: PLC0415

    return f"{API}/models/{model}/versions/{version}"


def create(
    session: Session,
    *,
    model: _MODEL,
    file: Annotated[list[str], typer.Argument(help="The ONNX file, and further ones as PATH-IN-THE-VERSION=FILE.")],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Parquet to monitor against: the columns, `score`, and `label` where it is known.", show_default=False
        ),
    ] = None,
    columns: Annotated[
        str, typer.Option(metavar="A,B,...", help="Names of the input's columns, in order.", show_default=False)
    ] = "",
    score: Annotated[
        str | None, typer.Option(help="Output that holds the score, as score:0 for a column.", show_default=False)
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Score at or above which the class is 1.")] = 0.5,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="JSON with metrics, gates and passed; Production asks for one.", show_default=False),
    ] = None,
    description: Annotated[str, typer.Option(help="What is new in it.")] = "",
) -> None:
    """Register a model that was made elsewhere; inputs and outputs are read from its ONNX graph."""
    from clave.registration import artifact_paths  # noqa: PLC0415

    files: dict[str, str | Path] = {}
    for text in file:
        name, equals, path = text.partition("=")
        files |= {name: path} if equals else artifact_paths(text)
    paths = artifact_paths(files, reference)
    names = [name.strip() for name in columns.split(",")] if columns else []
    judged = None if evaluation is None else _read_evaluation(evaluation)

    async def ask(client: "AsyncClient") -> "Version":
        return await client.register_version(
            model,
            paths,
            columns=names,
            score=score,
            threshold=threshold,
            description=description,
            evaluation=judged,
        )

    answer = session.ask(ask)
    signature = answer.signature
    session.show(
        answer,
        {
            "version": f"{answer.model} v{answer.version}",
            "status": answer.status,
            "takes": ", ".join(f"{t.name} {t.datatype} {t.shape}" for t in signature.inputs),
            "gives": ", ".join(f"{t.name} {t.datatype} {t.shape}" for t in signature.outputs),
            "manifest": f"sha256:{answer.manifest_digest}",
        },
    )
    say(f"next: clave versions submit {answer.model} {answer.version}")


def _read_evaluation(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise EnvironmentFailure(f"{file} cannot be read as JSON: {error}.", remedy="Name the evaluation.") from error
    if not isinstance(found, dict):
        raise Failure(f"{file} is no object with metrics, gates and passed.")
    return found


def show_version(session: Session, *, model: _MODEL, version: _VERSION) -> None:
    """Show a version: status, approvals, digest, data."""

    async def ask(client: "AsyncClient") -> "Version":
        return await client.registry.version(model, version)

    answer = session.ask(ask)
    session.show(
        answer,
        {
            "version": f"{answer.model} v{answer.version}",
            "status": answer.status,
            "reason": answer.status_reason,
            "approved by": answer.approved_by,
            "contributors": ", ".join(answer.contributors),
            "aliases": ", ".join(answer.aliases),
            "manifest": f"sha256:{answer.manifest_digest}",
            "run": answer.lineage.run_id,
            "training sets": ", ".join(f"{d.name} ({d.rows} rows)" for d in answer.lineage.datasets),
        },
    )


def submit(session: Session, *, model: _MODEL, version: _VERSION, namespace: _NAMESPACE = "Production") -> None:
    """Ask for a version's approval."""
    _decide(session, "submit", model, version, {"namespace": namespace})


def approve(
    session: Session,
    *,
    model: _MODEL,
    version: _VERSION,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    namespace: _NAMESPACE = "Production",
) -> None:
    """Approve a submitted version."""
    _decide(session, "approve", model, version, {"comment": comment, "namespace": namespace})


def reject(
    session: Session,
    *,
    model: _MODEL,
    version: _VERSION,
    comment: Annotated[str, typer.Option(help="Why.")],
    namespace: _NAMESPACE = "Production",
) -> None:
    """Reject a submitted version."""
    _decide(session, "reject", model, version, {"comment": comment, "namespace": namespace})


def archive(
    session: Session,
    *,
    model: _MODEL,
    version: _VERSION,
    reason: Annotated[str, typer.Option(help="Why; it is written to the audit log.")] = "",
) -> None:
    """Take a version out of use."""
    _decide(session, "archive", model, version, {"reason": reason})


def _decide(session: Session, verb: str, model: str, version: int, body: dict[str, Any]) -> None:
    async def ask(client: "AsyncClient") -> "Version":
        from clave_contracts.registry import Version  # noqa: PLC0415

        return await client.registry.post(Version, f"{_path(model, version)}/{verb}", body)

    answer = session.ask(ask)
    approvals = sum(1 for item in answer.approvals if item.decision == "approve")
    session.show(
        answer,
        {
            "version": f"{answer.model} v{answer.version}",
            "status": answer.status,
            "approvals": f"{approvals} of {answer.approvals_needed}",
            "reason": answer.status_reason,
        },
    )


def show_history(session: Session, *, model: _MODEL, version: _VERSION) -> None:
    """Show everything that was done to a version, oldest first."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        return await client.registry.get(dict[str, Any], f"{_path(model, version)}/history")

    answer = session.ask(ask)
    rows = [(one["at"], one["by"], one["action"], one["detail"]) for one in answer["events"]]
    session.show_rows(answer, ("at", "by", "action", "detail"), rows)


def show_ml_bom(session: Session, *, model: _MODEL, version: _VERSION) -> None:
    """Print a version's bill of materials as CycloneDX JSON."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        return await client.registry.get(dict[str, Any], f"{_path(model, version)}/ml-bom")

    show_json(session.ask(ask))


def sign(
    session: Session,
    *,
    model: _MODEL,
    version: _VERSION,
    key: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="PEM of a private key on P-256 or larger.")],
    password: Annotated[
        str | None, typer.Option(envvar="CLAVE_SIGNING_PASSWORD", help="Of the key, where it has one.")
    ] = None,
) -> None:
    """Sign a version's files (OMS) with your key and hand the signature to the registry."""
    from clave.signing import UnusableSigningKey, sign_files  # noqa: PLC0415 - cryptography is not needed for --help

    async def ask(client: "AsyncClient") -> "VersionSignatures":
        found = await client.registry.version(model, version)
        files = {artifact.path: artifact.digest for artifact in found.artifacts}
        secret = password.encode() if password else None
        try:
            bundle = sign_files(f"{model}-v{version}", files, private_key=key.read_bytes(), password=secret)
        except UnusableSigningKey as error:
            raise Refused(str(error)) from error
        return await _send(client, model, version, bundle)

    _show_signatures(session, session.ask(ask))


def add_signature(
    session: Session,
    *,
    model: _MODEL,
    version: _VERSION,
    bundle: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `model_signing sign key` wrote.")],
) -> None:
    """Add a signature that was made elsewhere."""

    async def ask(client: "AsyncClient") -> "VersionSignatures":
        return await _send(client, model, version, bundle.read_bytes())

    _show_signatures(session, session.ask(ask))


def show_signatures(session: Session, *, model: _MODEL, version: _VERSION) -> None:
    """List a version's signatures, verified now."""

    async def ask(client: "AsyncClient") -> "VersionSignatures":
        from clave_contracts.registry import VersionSignatures  # noqa: PLC0415

        return await client.registry.get(VersionSignatures, f"{_path(model, version)}/signatures")

    _show_signatures(session, session.ask(ask))


async def _send(client: "AsyncClient", model: str, version: int, bundle: bytes) -> "VersionSignatures":
    from clave_contracts.registry import VersionSignatures  # noqa: PLC0415

    headers = {"content-type": "application/json"}
    answer = await client.registry.send("POST", f"{_path(model, version)}/signatures", content=bundle, headers=headers)
    return VersionSignatures.model_validate_json(answer.content)


def _show_signatures(session: Session, answer: "VersionSignatures") -> None:
    rows = [(one.key_id, "yes" if one.verified else "NO", one.added_by, one.added_at) for one in answer.signatures]
    session.show_rows(answer, ("key", "verified", "added by", "added at"), rows)
