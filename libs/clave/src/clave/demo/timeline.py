"""Tells the demo as it happens: chapters and lines on stderr, and every event with its figures for ``--json``."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

_PLAIN_S = 10.0


class Bar:
    """One progress bar; without a terminal it prints its text now and then instead."""

    def __init__(self, timeline: "Timeline", progress: Progress | None, task: TaskID | None) -> None:
        self._timeline = timeline
        self._progress = progress
        self._task = task
        self._last = ""
        self._told_at = time.monotonic()

    def update(self, share: float, text: str) -> None:
        """Show how far it is.

        Args:
            share: Done, 0 to 1.
            text: What is being done.
        """
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=share, description=text)
        elif text != self._last and time.monotonic() - self._told_at > _PLAIN_S:
            self._timeline.plain(f"          ... {text}")
            self._told_at = time.monotonic()
        self._last = text


class Timeline:
    """The story so far.

    Args:
        console: Where it is told.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self.events: list[dict[str, Any]] = []
        self.marks: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self._record("chapter", title, {})
        self._console.print(Text(f"\n{self._clock()}  {title}", style="bold cyan"))

    def line(self, text: str, *, style: str = "", **figures: Any) -> None:
        """Tell one thing that happened, with its figures for programs."""
        self._record("event", text, figures)
        self._console.print(Text.assemble((f"{self._clock()}  ", "dim"), (text, style)))

    def plain(self, text: str) -> None:
        """Tell something that is no event."""
        self._console.print(text, markup=False)

    def mark(self, name: str) -> None:
        """Remember when something happened for the first time."""
        self.marks.setdefault(name, round(self.elapsed_s, 2))

    @contextmanager
    def bar(self, text: str) -> Iterator[Bar]:
        """Show progress while something is under way."""
        if not self._console.is_terminal:
            yield Bar(self, None, None)
            return
        columns = (
            TextColumn("      "),
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield Bar(self, progress, progress.add_task(text, total=1.0))

    def write(self, path: Path | None, *, outcome: str, summary: dict[str, Any]) -> None:
        """Write everything as JSON; ``-`` writes to stdout."""
        if path is None:
            return
        document = {
            "outcome": outcome,
            "seconds": round(self.elapsed_s, 2),
            "marks_s": self.marks,
            "summary": summary,
            "events": self.events,
        }
        text = json.dumps(document, indent=2, default=str) + "\n"
        if str(path) == "-":
            sys.stdout.write(text)
        else:
            path.write_text(text)

    def _record(self, kind: str, text: str, figures: dict[str, Any]) -> None:
        self.events.append(
            {
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "t_s": round(self.elapsed_s, 2),
                "kind": kind,
                "text": text,
                **({"figures": figures} if figures else {}),
            }
        )

    def _clock(self) -> str:
        return f"{self.elapsed_s:6.1f} s"
