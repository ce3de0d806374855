"""Where the processes of one port leave their figures for each other: a file each, written anew every second.

A scrape of the shared port meets one process, which adds the others' files to its own figures. A process that is
replaced begins with its predecessor's figures, so that no counter goes back while the supervisor lives. A file of
another supervisor's run is nobody's.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from clave_inference.metrics import Counts


class _Posted(msgspec.Struct):
    run: int
    counts: Counts


class MetricsBoard:
    """The board of one process.

    Args:
        folder: Shared by the processes.
        worker: This process's number.
        run: What the processes of one start have in common: their supervisor's process id.
    """

    def __init__(self, folder: Path, *, worker: int, run: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.worker = worker
        self._folder = folder
        self._own = folder / f"worker-{worker}.msgpack"
        self._run = run

    def post(self, counts: Counts) -> None:
        """Write this process's figures."""
        fresh = self._own.with_suffix(".new")
        fresh.write_bytes(msgspec.msgpack.encode(_Posted(self._run, counts)))
        os.replace(fresh, self._own)  # noqa: PTH105  atomic by contract

    def own(self) -> Counts | None:
        """Read what this process's predecessor left."""
        return self._read(self._own)

    def siblings(self) -> Iterator[tuple[int, Counts]]:
        """Read the others' figures, by their numbers."""
        for path in sorted(self._folder.glob("worker-*.msgpack")):
            if path != self._own:
                counts = self._read(path)
                if counts is not None:
                    yield int(path.stem.removeprefix("worker-")), counts

    def _read(self, path: Path) -> Counts | None:
        try:
            posted = msgspec.msgpack.decode(path.read_bytes(), type=_Posted)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return posted.counts if posted.run == self._run else None
