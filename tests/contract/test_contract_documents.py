"""What the documents tell people to type exists: commands and options of ``clave``, targets of make, linked files.

Blocks marked ``bash`` or ``python`` in the README and the guides are also run, in `tests/e2e`; this test covers the
rest: every page, indented blocks and commands in a sentence.
"""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer
from clave.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("libs/*/README.md")])
FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
INDENTED = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
STOPS = {"|", ">", ">>", "&&", "||", ";", "&", "#", "<"}


def typed(page: Path) -> list[str]:
    """Every line of a page that somebody may type."""
    text = page.read_text()
    blocks = "\n".join(FENCED.findall(text)).replace("\\\n", " ")
    outside = FENCED.sub("", text)
    found = [*blocks.splitlines(), *INLINE.findall(outside), *INDENTED.findall(outside)]
    return [line.strip().removeprefix("$ ") for line in found]


def words_after(program: str, line: str) -> list[str] | None:
    """The words behind a program's name up to the end of its command; None where the line is something else."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return None
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words or words[0] != program:
        return None
    end = next((at for at, word in enumerate(words) if word in STOPS), len(words))
    return words[1:end]


def lines_of(program: str) -> list:
    return [
        pytest.param(words, id=f"{page.relative_to(ROOT)}:{' '.join(words)}"[:110])
        for page in PAGES
        for words in sorted({tuple(words_after(program, line) or ()) for line in typed(page)} - {()})
    ]


@pytest.mark.parametrize("words", lines_of("clave"))
def test_a_documented_command_exists_with_its_options(words):
    command: click.Command = typer.main.get_command(app)
    rest = list(words)
    while rest and (group := getattr(command, "commands", None)) is not None and not rest[0].startswith("-"):
        alternatives = rest[0].split("|")
        assert all(name in group for name in alternatives), f"clave has no command {' '.join(words)}"
        command, rest = group[alternatives[0]], rest[1:]
    known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}
    asked = {word.strip("[]").split("=")[0] for word in rest if word.strip("[]").startswith("-")}
    assert asked <= known, f"clave {' '.join(words)}: no option {asked - known}"


@pytest.mark.parametrize("words", lines_of("make"))
def test_a_documented_target_of_make_exists(words):
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    assert {word for word in words if "=" not in word and not word.startswith("-")} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_to_a_file_leads_somewhere(page):
    dead = [target for target in LINK.findall(page.read_text()) if not (page.parent / target.strip("<>")).exists()]
    assert not dead


def test_the_documents_are_looked_through():
    assert len(lines_of("clave")) > 40
    assert len(lines_of("make")) > 5
