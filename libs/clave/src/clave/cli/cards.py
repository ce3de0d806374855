"""Commands about model cards: show, edit, diff."""

import os
import shlex
import subprocess
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.output import Output, show_json
from clave.cli.session import Session, connected
from clave.failures import Refused

if TYPE_CHECKING:
    from clave.client import AsyncClient

_GROUP = "Models and endpoints"
_MODEL = Annotated[str, typer.Argument(help="Name of the registered model.")]
_CHOSEN = Annotated[int | None, typer.Argument(min=1, help="Version; the latest when left out.", show_default=False)]
_TEXTS = ("overview", "intended_use", "ethical_considerations", "retrain_when")
_LISTS = ("limitations", "usage_notes", "owners")


class Form(StrEnum):
    """A form in which a card is written."""

    JSON = "json"
    MARKDOWN = "md"
    HTML = "html"
    MODEL_CARD_TOOLKIT = "model-card-toolkit"
    HUGGING_FACE = "huggingface"
    SAGEMAKER = "sagemaker"
    CYCLONEDX = "cyclonedx"
    ANNEX_IV = "annex-iv-md"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    card = typer.Typer(no_args_is_help=True, help="Model cards: show in any form, edit what only people know, diff.")
    card.command("show")(connected(show_card))
    card.command("edit")(connected(edit_card))
    card.command("diff")(connected(diff_card))
    app.add_typer(card, name="card", rich_help_panel=_GROUP)


async def _path(client: "AsyncClient", model: str, version: int | None) -> str:
    from clave_contracts.registry import API, Model  # noqa: PLC0415

    chosen = version or (await client.registry.get(Model, f"{API}/models/{model}")).latest_version
    if chosen is None:
        raise Refused(f"{model} has no version yet.")
    return f"{API}/models/{model}/versions/{chosen}/card"


def show_card(
    session: Session,
    *,
    model: _MODEL,
    version: _CHOSEN = None,
    form: Annotated[Form, typer.Option("--format", help="In whose words.")] = Form.MARKDOWN,
) -> None:
    """Print a version's model card."""
    wanted = Form.JSON if session.output is Output.JSON and form is Form.MARKDOWN else form

    async def ask(client: "AsyncClient") -> Any:
        return await client.registry.send("GET", await _path(client, model, version), params={"format": wanted.value})

    answer = session.ask(ask)
    if "json" in answer.headers.get("content-type", ""):
        show_json(answer.json())
    else:
        typer.echo(answer.text)


def edit_card(
    session: Session,
    *,
    model: _MODEL,
    version: _CHOSEN = None,
    overview: Annotated[str | None, typer.Option(help="What the model does, in a sentence.")] = None,
    intended_use: Annotated[str | None, typer.Option(help="What it may be used for, and what not.")] = None,
    ethical_considerations: Annotated[str | None, typer.Option(help="Whom it may harm, and what is done.")] = None,
    retrain_when: Annotated[str | None, typer.Option(help="When it is to be retrained.")] = None,
    limitations: Annotated[list[str] | None, typer.Option("--limitation", help="One limitation; repeat.")] = None,
    usage_notes: Annotated[list[str] | None, typer.Option("--usage-note", help="One note for users; repeat.")] = None,
    owners: Annotated[list[str] | None, typer.Option("--owner", help="One owner; repeat.")] = None,
) -> None:
    """Write the parts of a card that only a person can; without options they are opened in $EDITOR.

    What somebody else changed meanwhile is never overwritten.
    """
    given = {
        "overview": overview,
        "intended_use": intended_use,
        "ethical_considerations": ethical_considerations,
        "retrain_when": retrain_when,
        "limitations": limitations,
        "usage_notes": usage_notes,
        "owners": owners,
    }
    named = {name: value for name, value in given.items() if value}

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        path = await _path(client, model, version)
        before = await client.registry.send("GET", path, params={"format": "json"})
        changes = named or _edited(texts_of(before.json()))
        headers = {"if-match": before.headers["etag"]}
        answer = await client.registry.send("PATCH", path, body=changes, headers=headers)
        shown: dict[str, Any] = answer.json()
        return shown

    card = session.ask(ask)
    missing = card["governance"]["missing_fields"]
    session.show(
        card,
        {"card": card["model_details"]["id"], "still missing for approval": ", ".join(missing) or "nothing"},
    )


def texts_of(card: dict[str, Any]) -> dict[str, Any]:
    """Take what people write out of a card."""
    return {
        "overview": card["model_details"]["overview"],
        "intended_use": card["usage_notes"]["intended_use"],
        "ethical_considerations": card["limitations"]["ethical_considerations"],
        "retrain_when": card["usage_notes"]["retrain_when"],
        "limitations": card["limitations"]["stated"],
        "usage_notes": card["usage_notes"]["notes"],
        "owners": card["model_details"]["owners"],
    }


def _edited(texts: dict[str, Any]) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - only when an editor is opened

    shown = yaml.safe_dump(texts, sort_keys=False, allow_unicode=True, width=100)
    written = _in_editor(f"# Save and close to send; leave unchanged to send nothing.\n{shown}")
    try:
        found = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise Refused(f"The text is no YAML: {error}") from error
    if not isinstance(found, dict) or set(found) - {*_TEXTS, *_LISTS}:
        raise Refused(f"The card's texts are {', '.join((*_TEXTS, *_LISTS))}; nothing was sent.")
    changes = {name: value for name, value in found.items() if value != texts.get(name)}
    if not changes:
        raise Refused("Nothing was changed.")
    return changes


def _in_editor(text: str) -> str:
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="clave-card-") as folder:
        path = Path(folder) / "card.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            subprocess.run([*editor, str(path)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Refused(f"The editor '{editor[0]}' failed; set EDITOR, or name texts as options.") from error
        return path.read_text(encoding="utf-8")


def diff_card(
    session: Session,
    *,
    model: _MODEL,
    version: _CHOSEN = None,
    other: Annotated[
        int | None, typer.Option("--with", min=1, help="Version to compare with; the champion when left out.")
    ] = None,
) -> None:
    """Compare a version's card with the champion's: figures side by side, and every part that differs."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        path = await _path(client, model, version)
        return await client.registry.get(dict[str, Any], f"{path}/diff", **{"with": other})

    answer = session.ask(ask)
    compared = answer["same_rows"] or answer
    rows = [
        (
            f"{row['name']} ({compared['split']})",
            _number(row["this"]),
            _number(row["other"]),
            _number(row["difference"]),
        )
        for row in compared["metrics"]
    ]
    rows += [(change["path"], str(change["this"]), str(change["other"]), "") for change in answer["changes"]]
    session.show_rows(answer, ("what", f"v{answer['this']}", f"v{answer['other']}", "difference"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
