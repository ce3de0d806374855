"""Page tokens: opaque to callers, bound to the query they continue."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import Query

from clave_common.errors import InvalidArgument

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000
PageSize = Annotated[
    int, Query(ge=1, le=2**31 - 1, description=f"Rows per page; more than {PAGE_SIZE_MAX} is read as that.")
]
PageToken = Annotated[str | None, Query(description="`next_page_token` of the page before.")]


def page_size(asked: int | None) -> int:
    """Bound a wished page size to 1..1000."""
    return min(max(asked or PAGE_SIZE_DEFAULT, 1), PAGE_SIZE_MAX)


def encode_token(position: list[Any], *, query: str) -> str:
    """Make the token that continues after a row.

    Args:
        position: Sort key of the last row of the page, JSON-able.
        query: What was asked (filters, order); a token of another query is refused.
    """
    raw = orjson.dumps([_fingerprint(query), position], default=str)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_token(token: str, *, query: str, kinds: Sequence[type] | None) -> list[Any]:
    """Read a token back. Whoever knows the query can make one, so its parts are checked like other input.

    Args:
        token: As the caller sent it.
        query: What is asked now.
        kinds: What each part of the position is: bool, int (of 64 bits), float, str, or datetime (as ISO 8601 text);
            None where the caller checks that itself.

    Raises:
        InvalidArgument: It is no token, or one of another query, or of another shape.
    """
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        fingerprint, position = orjson.loads(raw)
    except ValueError as error:
        raise bad_token() from error
    if fingerprint != _fingerprint(query) or not isinstance(position, list):
        raise bad_token()
    if kinds is not None and not _is_of(position, kinds):
        raise bad_token()
    return position


def _is_of(position: list[Any], kinds: Sequence[type]) -> bool:
    return len(position) == len(kinds) and all(_is_a(part, kind) for part, kind in zip(position, kinds, strict=True))


def _is_a(part: Any, kind: type) -> bool:
    if kind is datetime:
        return isinstance(part, str) and _is_time(part)
    if kind is float:
        return type(part) in {float, int}
    if kind is int:
        return isinstance(part, int) and not isinstance(part, bool) and -(2**63) <= part < 2**63
    return type(part) is kind


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def bad_token() -> InvalidArgument:
    """Build the refusal of a token that does not continue what is asked."""
    return InvalidArgument("page_token is not one of this query; start again without it.", field="page_token")


def _fingerprint(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:12]
