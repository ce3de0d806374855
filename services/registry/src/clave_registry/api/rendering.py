"""What the routes share: answers with entity tags, If-Match, query texts."""

from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from clave_common.errors import InvalidArgument
from clave_contracts.schema import Number, Whole
from clave_contracts.schema import Request as Body
from fastapi import Header
from pydantic import BaseModel, Field
from starlette.responses import Response

from clave_registry.converters import etag

IfMatch = Annotated[str | None, Header(description="ETag of the state that the change was made from.")]


class ModelUpdate(Body):
    """What may change about a registered model; absent = stays."""

    description: str | None = Field(default=None, max_length=5_000)
    tags: dict[str, str] | None = None


class TagChange(Body):
    """Tags to set; null removes one."""

    tags: dict[str, str | None]


class AliasPoint(Body):
    """The version that an alias is to name."""

    version: Number
    reason: str = Field(default="", max_length=1_000)


class EntityKeys(Body):
    """One entity, by its keys."""

    keys: dict[str, str | Whole] = Field(min_length=1, max_length=10)


class Reason(Body):
    """Why an operator does this."""

    reason: str = Field(default="", max_length=1_000)


def answer(
    body: BaseModel | dict[str, Any],
    *,
    status: int = 200,
    revision: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Render an answer as JSON, with its entity tag where it has a revision."""
    tagged = {} if revision is None else {"ETag": etag(revision)}
    content = body.model_dump_json().encode() if isinstance(body, BaseModel) else orjson.dumps(body)
    return Response(content, status_code=status, media_type="application/json", headers={**tagged, **(headers or {})})


def revision_of(if_match: str | None) -> int | None:
    """Read the revision that an If-Match header names; None for none or ``*``.

    Raises:
        InvalidArgument: It is no entity tag of this service.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isdecimal():
        raise InvalidArgument("If-Match takes the ETag that an earlier answer carried.", field="If-Match")
    return int(text)


def tag_filter(text: str | None) -> tuple[str, str] | None:
    """Read ``key=value``.

    Raises:
        InvalidArgument: There is no ``=`` in it.
    """
    if text is None:
        return None
    key, separator, value = text.partition("=")
    if not separator:
        raise InvalidArgument("tag is written key=value.", field="tag")
    return key, value
