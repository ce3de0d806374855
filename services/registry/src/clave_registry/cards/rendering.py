"""Renders a model card's JSON as Markdown and as HTML.

Texts of people are data, never markup: HTML is escaped by the template engine, and in Markdown every character that
could open markup, a link or raw HTML is escaped, line breaks included.
"""

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~$&])")
# What steers a terminal, or turns the direction of a line: a card is also printed by the command line.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NONE = "\N{EN DASH}"
_SIGNIFICANT = 4


def printable(value: object) -> str:
    """Write any value as text without control characters; nothing for None."""
    return _CONTROL.sub("", "" if value is None else str(value))


def markdown_text(value: object) -> str:
    """Write any value as plain text in Markdown, on one line."""
    text = " ".join(printable(value).split())
    escaped = _MARKDOWN_SPECIAL.sub(r"\\\1", text)
    return f"\\{escaped}" if escaped[:1] in {"-", "="} else escaped


def figure(value: object) -> str:
    """Write a number with four significant digits; a dash for none."""
    if value is None:
        return _NONE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.{_SIGNIFICANT}g}"


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    return f"{figure(low)} to {figure(high)}" if low is not None and high is not None else _NONE


def _environment(*, html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("clave_registry.cards", "templates"),
        autoescape=html,  # noqa: S701 - Markdown has an escaping of its own, in finalize
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalized_html if html else _finalized_markdown,
    )
    environment.filters["figure"] = figure if html else (lambda value: Markup(figure(value)))  # noqa: S704 - digits
    environment.filters["interval"] = _interval if html else (lambda row: Markup(_interval(row)))  # noqa: S704 - digits
    return environment


def _finalized_html(value: object) -> object:
    return value if isinstance(value, Markup) else printable(value)


def _finalized_markdown(value: object) -> object:
    return value if isinstance(value, Markup) else markdown_text(value)


_MARKDOWN = _environment(html=False)
_HTML = _environment(html=True)


def render_markdown(card: Mapping[str, Any]) -> str:
    """Write a card as Markdown (CommonMark with tables)."""
    return _MARKDOWN.get_template("card.md.j2").render(card=card)


def render_html(card: Mapping[str, Any]) -> str:
    """Write a card as a self-contained HTML page without scripts."""
    return _HTML.get_template("card.html.j2").render(card=card)
