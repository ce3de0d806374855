"""Identifiers: sortable by time of creation, unguessable in their tail."""

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, lower case
_TIME_BITS = 48
_RANDOM_BYTES = 10
_LENGTH = 26

_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
"""Two characters at a time: a decision makes an id, and this takes half of the time."""
_SHIFTS = tuple(range((_LENGTH - 2) * 5, -1, -10))


def new_id(prefix: str) -> str:
    """Make an identifier such as ``run_01h2xcejqtf2nbrexx3vqjhp41``.

    Args:
        prefix: What the identifier names, lower case letters.

    Returns:
        The prefix, an underscore and 26 characters: 48 bits of milliseconds and 80 random bits (the ULID layout).
    """
    value = (int(time.time() * 1000) % (1 << _TIME_BITS)) << (_RANDOM_BYTES * 8)
    value |= int.from_bytes(os.urandom(_RANDOM_BYTES), "big")
    return f"{prefix}_{''.join([_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS])}"
