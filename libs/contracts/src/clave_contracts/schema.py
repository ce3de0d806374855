"""The base of every request and response: unknown request fields are refused, unknown answer fields ignored."""

from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)

_FAULTS_TOLD_MAX = 20

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

# Whatever whole number a caller sends is bounded by the place where it is kept.
Whole = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""Any whole number of 64 bits."""
Count = Annotated[int, Field(ge=0, le=2**53)]
"""How many; up to the largest whole number that every reader of JSON keeps exactly."""
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""Of a version, an attempt: 1 first, 32 bits."""


class Request(BaseModel):
    """What a caller sends."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @model_validator(mode="wrap")
    @classmethod
    def _tell_few_faults(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Count the faults instead of telling them where they are many: telling each costs 25 us in FastAPI."""
        try:
            return handler(value)
        except ValidationError as error:
            if error.error_count() <= _FAULTS_TOLD_MAX:
                raise
            raise ValueError(f"{error.error_count()} faults, too many to tell") from None


class Answer(BaseModel):
    """What a service answers; it only ever grows."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
