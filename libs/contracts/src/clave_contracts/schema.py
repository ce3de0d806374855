"""The base of every request and response: unknown request fields are refused, unknown answer fields ignored."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Request(BaseModel):
    """What a caller sends."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Answer(BaseModel):
    """What a service answers; it only ever grows."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
