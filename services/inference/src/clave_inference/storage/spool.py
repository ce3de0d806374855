"""Entries that wait on disk for the stream: an append-only file of length-prefixed records, and how far it was sent.

Entries survive a restart. A tail that a crash cut short is dropped at opening; everything before it is kept.
"""

import os
from pathlib import Path
from typing import Final

_HEAD: Final = 8  # bytes: length of the id and of the body, 4 each, little-endian


class SpoolFull(Exception):
    """The spool is at its limit, or the disk refuses."""


class Spool:
    """A queue on disk; one process owns it.

    Args:
        path: The file; its position is kept beside it.
        bytes_max: Bytes on disk at most.
    """

    def __init__(self, path: Path, *, bytes_max: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._position_path = path.with_suffix(".position")
        self._bytes_max = bytes_max
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._start = self._saved_position()
        self._end, self.entries = self._scan()
        self._file.truncate(self._end)

    def _saved_position(self) -> int:
        try:
            return int(self._position_path.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _scan(self) -> tuple[int, int]:
        size = os.fstat(self._file.fileno()).st_size
        at, entries = min(self._start, size), 0
        while True:
            lengths = self._lengths(at, size)
            if lengths is None:
                return at, entries
            at += _HEAD + sum(lengths)
            entries += 1

    def _lengths(self, at: int, size: int) -> tuple[int, int] | None:
        head = os.pread(self._file.fileno(), _HEAD, at)
        if len(head) < _HEAD:
            return None
        id_length, body_length = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
        return None if at + _HEAD + id_length + body_length > size else (id_length, body_length)

    def append(self, entry_id: str, body: bytes) -> None:
        """Add an entry at the end.

        Raises:
            SpoolFull: The limit is reached or the disk refuses; nothing was added.
        """
        name = entry_id.encode()
        record = len(name).to_bytes(4, "little") + len(body).to_bytes(4, "little") + name + body
        if self._end + len(record) > self._bytes_max:
            raise SpoolFull(f"the spool holds {self._end} bytes of at most {self._bytes_max}")
        try:
            written = os.pwrite(self._file.fileno(), record, self._end)
        except OSError as error:
            raise SpoolFull(f"the disk refuses: {error.strerror}") from error
        if written != len(record):
            raise SpoolFull("the disk is full")
        self._end += len(record)
        self.entries += 1

    def peek(self) -> tuple[str, bytes] | None:
        """Read the oldest entry, or None."""
        lengths = self._lengths(self._start, self._end) if self.entries else None
        if lengths is None:
            return None
        id_length, body_length = lengths
        record = os.pread(self._file.fileno(), id_length + body_length, self._start + _HEAD)
        return record[:id_length].decode(), record[id_length:]

    def advance(self) -> None:
        """Forget the oldest entry; the file shrinks to nothing when the last one goes."""
        lengths = self._lengths(self._start, self._end)
        if lengths is None:
            return
        self._start += _HEAD + sum(lengths)
        self.entries -= 1
        if not self.entries:
            self._start = self._end = 0
            self._file.truncate(0)
        self._position_path.write_text(str(self._start))

    def close(self) -> None:
        """Close the file; entries stay for the next start."""
        self._file.close()
