"""Page tokens: opaque to callers, bound to the query they continue."""

import base64
import hashlib
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


def decode_token(token: str, *, query: str) -> list[Any]:
    """Read a token back.

    Raises:
        InvalidArgument: It is no token, or one of another query.
    """
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        fingerprint, position = orjson.loads(raw)
    except ValueError as error:
        raise _bad_token() from error
    if fingerprint != _fingerprint(query) or not isinstance(position, list):
        raise _bad_token()
    return position


def _bad_token() -> InvalidArgument:
    return InvalidArgument("page_token is not one of this query; start again without it.", field="page_token")


def _fingerprint(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:12]
