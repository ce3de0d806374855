"""The command that shows the processes' logs, as sentences or as they lie there."""

import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import typer

from clave.cli.options import DataDir, data_dir_option
from clave.cli.output import printable, say
from clave.failures import EnvironmentFailure

_FOLLOW_S = 0.3
_NOT_REPEATED = {"event", "level", "timestamp", "service", "module", "exception"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Stack")(logs)


def logs(
    service: Annotated[str | None, typer.Argument(help="One process; all when left out.", show_default=False)] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of each.")] = 40,
    raw: Annotated[
        bool, typer.Option("--raw", help="As the processes wrote them: JSON, with whole exceptions.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Show the logs, process by process, newest last."""
    from clave.connection import default_data_dir  # noqa: PLC0415 - `clave --help` does without
    from clave.stack.layout import Layout  # noqa: PLC0415

    folder = Layout.at(data_dir or default_data_dir()).logs
    known = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if not known:
        raise EnvironmentFailure(
            f"There are no logs in {folder}.", remedy=f"Start the stack with `clave up{data_dir_option(data_dir)}`."
        )
    if service is not None and service not in known:
        raise EnvironmentFailure(f"There is no log of {service!r}.", remedy=f"There are: {', '.join(known)}.")
    chosen = {service: known[service]} if service else known
    margin = 0 if service else max(len(name) for name in chosen)
    offsets = {}
    for name, path in chosen.items():
        with path.open(errors="replace") as file:
            for line in deque(file, maxlen=lines):
                _print_line(name, line, margin=margin, raw=raw)
            offsets[name] = file.tell()
    if service and not offsets[service]:
        say(f"{service} has logged nothing since its log began")
    while follow:
        for name, path in chosen.items():
            offsets[name] = _print_new(name, path, offsets[name], margin=margin, raw=raw)
        sys.stdout.flush()
        time.sleep(_FOLLOW_S)


def _print_new(name: str, path: Path, offset: int, *, margin: int, raw: bool) -> int:
    """Print what was appended; a file shorter than before was rotated and is read from its start."""
    if not path.exists():
        return 0
    start = offset if path.stat().st_size >= offset else 0
    with path.open(errors="replace") as file:
        file.seek(start)
        for line in file:
            _print_line(name, line, margin=margin, raw=raw)
        return file.tell()


def _print_line(name: str, line: str, *, margin: int, raw: bool) -> None:
    text = line if raw else f"{readable(line)}\n"
    sys.stdout.write(f"{name:<{margin}} | {text}" if margin else text)


def readable(line: str) -> str:
    """Write an entry as time, level, event and facts, an exception by its last line; other lines as they are."""
    try:
        entry: Any = json.loads(line) if line.startswith("{") else None
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "event" not in entry:
        return _one_line(line)
    facts = [f"{name}={value}" for name, value in entry.items() if name not in _NOT_REPEATED]
    told = [str(entry.get("timestamp", ""))[11:19], f"{entry.get('level', ''):<7}", str(entry["event"]).strip(), *facts]
    if exception := str(entry.get("exception") or "").strip():
        told.append(f"[{exception.splitlines()[-1]}; --raw shows where]")
    return _one_line(" ".join(told))


def _one_line(text: str) -> str:
    return printable(" ".join(text.splitlines()))
