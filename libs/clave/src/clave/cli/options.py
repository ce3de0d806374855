"""The options that many commands share, declared once."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from clave.cli.output import Output

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Data directory of the local stack (default: CLAVE_DATA_DIR, else .clave in the current folder).",
        show_default=False,
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Form of the data on stdout.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Speak to this stack instead of a local one (or CLAVE_URL).", show_default=False
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY", help="API key; better in CLAVE_API_KEY.", show_default=False),
]


def data_dir_option(data_dir: Path | None) -> str:
    """Write the option that a suggested command needs to speak to the same local stack; empty for the usual folder."""
    from clave.connection import default_data_dir  # noqa: PLC0415 - `clave --help` does without

    if data_dir is None or data_dir.resolve() == default_data_dir().resolve():
        return ""
    return f" --data-dir {shlex.quote(str(data_dir))}"
