"""The command that shows which stack the others would speak to, and why."""

import os
from typing import Any

import typer

from clave.cli.options import DataDir, OutputOption
from clave.cli.output import Output, show_facts, show_json
from clave.connection import default_data_dir, find_connection
from clave.failures import EnvironmentFailure


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Access and audit")(config)


def config(*, data_dir: DataDir = None, output: OutputOption = Output.TABLE) -> None:
    """Show which stack commands would speak to, where that comes from, and the settings in force."""
    folder = data_dir or default_data_dir()
    facts: dict[str, Any] = {"data directory": str(folder.resolve())}
    try:
        connection = find_connection(data_dir=data_dir)
    except EnvironmentFailure as failure:
        facts["stack"] = failure.what
    else:
        facts["url"] = connection.url
        facts["grpc"] = connection.grpc
        facts["api key from"] = str(connection.key_file) if connection.key_file else "CLAVE_API_KEY"
    hidden = {"CLAVE_API_KEY"}
    for name, value in sorted(os.environ.items()):
        if name.startswith("CLAVE_"):
            facts[name] = "(set)" if name in hidden else value
    if output is Output.JSON:
        show_json(facts)
    else:
        show_facts(facts)
