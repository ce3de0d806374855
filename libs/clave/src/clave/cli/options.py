"""The options that many commands share, declared once."""

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
