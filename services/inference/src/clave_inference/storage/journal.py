"""What a killed process leaves behind: everything logged since the last flush, in a file of its own.

What is to be logged is written here before the answer leaves, in one system call for all requests that ran together.
The page cache keeps what was written when the process dies; only the machine's own end can lose it. Two segments take
turns: while one is on its way to the stream, new pieces go to the other. What a dead process left is read back at the
next start; a record that had reached the stream as well is known to the consumer by its id.
"""

import os
import struct
from pathlib import Path
from typing import Final

_SEGMENTS: Final = ("a", "b")
_HEAD: Final = struct.Struct("<I")


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
        """Read the pieces that an earlier process wrote and never finished; a tail cut short is dropped."""
        pieces: list[bytes] = []
        for file in self._files:
            data = os.pread(file, os.fstat(file).st_size, 0)
            at = 0
            while at + _HEAD.size <= len(data):
                end = at + _HEAD.size + _HEAD.unpack_from(data, at)[0]
                if end > len(data):
                    break
                pieces.append(data[at + _HEAD.size : end])
                at = end
        return pieces

    def write(self, piece: bytes) -> None:
        """Add a piece to the open segment; a disk that refuses is counted, and never an answer's business."""
        entry = _HEAD.pack(len(piece)) + piece
        try:
            if not self._files or os.write(self._files[self._at], entry) != len(entry):
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
