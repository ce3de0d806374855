"""What a killed process leaves behind: every prediction record since the last flush, in a file of its own.

A record is written here before its answer leaves, in one system call for all requests that ran together. The page cache
keeps what was written when the process dies; only the machine's own end can lose it. Two segments take turns: while one
is on its way to the stream, new records go to the other. What a dead process left is read back at the next start; a
record that had reached the stream as well is known to the consumer by its id.
"""

import os
from pathlib import Path
from typing import Final

_SEGMENTS: Final = ("a", "b")


class Journal:
    """Two segments of one process.

    Args:
        path: Their common path; ``.a`` and ``.b`` are added.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        paths = [path.with_name(f"{path.name}.{name}") for name in _SEGMENTS]
        self._files = [os.open(one, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) for one in paths]
        self._at = 0
        self.failures = 0

    def left_behind(self) -> list[bytes]:
        """Read what an earlier process wrote and never finished: JSON records joined by commas, one piece a line."""
        pieces: list[bytes] = []
        for file in self._files:
            data = os.pread(file, os.fstat(file).st_size, 0)
            whole, end, _torn = data.rpartition(b"\n")
            pieces += whole.split(b"\n") if end else []
        return pieces

    def write(self, records: bytes) -> None:
        """Add records to the open segment; a disk that refuses is counted, and never an answer's business."""
        line = records + b"\n"
        try:
            if not self._files or os.write(self._files[self._at], line) != len(line):
                self.failures += 1
        except OSError:
            self.failures += 1

    def turn(self) -> int:
        """Open the other segment; gives the one to be finished."""
        finished, self._at = self._at, 1 - self._at
        return finished

    def finished(self, segment: int) -> None:
        """Forget a segment: its records are on the stream, in the spool, or counted as dropped."""
        os.ftruncate(self._files[segment], 0)

    def clear(self) -> None:
        """Forget everything: what was left behind is safe elsewhere."""
        for segment in range(len(self._files)):
            self.finished(segment)

    def close(self) -> None:
        """Close the files."""
        files, self._files = self._files, []
        for file in files:
            os.close(file)
