"""Ids of predictions."""

import itertools
import os
from typing import Final

_IDS_AT_ONCE: Final = 32  # more at once would be a pause that one request pays for


class PredictionIds:
    """Unguessable, unique, and cheap: a random prefix per process, its counter, a random tail drawn in bulk."""

    def __init__(self) -> None:
        self._prefix = f"prd_{os.urandom(6).hex()}"
        self._numbers = itertools.count()
        self._ready: list[str] = []

    def next(self) -> str:
        """Make an id: 48 random bits of the process, its counter, 40 random bits."""
        if not self._ready:
            pool = os.urandom(5 * _IDS_AT_ONCE).hex()
            numbers = itertools.islice(self._numbers, _IDS_AT_ONCE)
            prefix = self._prefix
            self._ready = [f"{prefix}{number:08x}{pool[at * 10 : at * 10 + 10]}" for at, number in enumerate(numbers)]
            self._ready.reverse()
        return self._ready.pop()
