"""Digests of definitions and of training sets: the same content gives the same digest, everywhere and for ever."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any


def digest_of(document: Mapping[str, Any]) -> str:
    """Hash a JSON document.

    Args:
        document: JSON-able; the order of its keys does not matter.

    Returns:
        64 hexadecimal digits: SHA-256 over the UTF-8 of the document with sorted keys and no spaces.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256(text.encode()).hexdigest()
