"""How the command line speaks: tables for people, JSON for programs, both on stdout; everything else on stderr."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# What steers a terminal or turns a line's direction; names and texts of strangers are printed here.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_KIB = 1024
_PIPED_WIDTH = 200
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


class Output(StrEnum):
    """The form of a command's data."""

    TABLE = "table"
    JSON = "json"


@cache
def talk() -> "Console":
    """The console for everything that is not data (stderr)."""
    from rich.console import Console  # noqa: PLC0415 - `clave --help` does without

    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _PIPED_WIDTH)


@cache
def stdout() -> "Console":
    """The console for data."""
    from rich.console import Console  # noqa: PLC0415 - `clave --help` does without

    # Data that is piped must not be cut to the width of a terminal that is not there.
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def printable(value: object) -> str:
    """Write any value without what steers a terminal: nothing for None, moments in UTC to the second.

    Programs take JSON, where both stay whole.
    """
    text = "" if value is None else f"{value}"
    return _MOMENT.sub(r"\1 \2Z", _CONTROL.sub("", text))


def say(text: str) -> None:
    """Tell a step on stderr."""
    talk().print(printable(text), markup=False)


def show_json(value: object) -> None:
    """Print JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table on stdout."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns, title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    stdout().print(table)


def show_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        stdout().print(f"{printable(name):<{width}}  {printable(value)}".rstrip(), markup=False, soft_wrap=True)


def human_bytes(count: int) -> str:
    """Write a byte count in MB (1024 * 1024), as memory is commonly read."""
    return f"{count / _KIB / _KIB:.0f} MB"


def human_seconds(seconds: float) -> str:
    """Write a duration in its two largest units."""
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"
