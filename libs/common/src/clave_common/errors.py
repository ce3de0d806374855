"""The errors a service may raise on purpose.

An error carries a kind (what sort of refusal), a code (which one, stable, documented) and the facts a caller
needs; it never names a transport's status. `clave_common.status` turns kinds into HTTP and gRPC.

    ClaveError
    +-- InvalidArgument        the request itself is wrong
    +-- Unauthenticated        nobody known is asking
    +-- PermissionDenied       policy said no
    +-- NotFound               no such thing, or none the caller may see
    +-- AlreadyExists          the name is taken
    +-- FailedPrecondition     the thing is in another state than the operation needs
    +-- Aborted                somebody else changed it first (stale If-Match, lost lease)
    +-- PayloadTooLarge        over a stated limit
    +-- ResourceExhausted      rate limit or quota
    +-- Unavailable            a dependency is away; trying again later may work
    +-- DeadlineExceeded       the caller's time is over
"""

from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What sort of refusal an error is."""

    INVALID_ARGUMENT = "invalid_argument"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    FAILED_PRECONDITION = "failed_precondition"
    PRECONDITION_REQUIRED = "precondition_required"
    ABORTED = "aborted"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"


class ClaveError(Exception):
    """An expected refusal.

    Args:
        detail: What happened and what to do about it, in one or two sentences for the caller.
        code: Stable snake_case name of the refusal; the class's own when absent.
        retry_after_s: Seconds after which the same call may work, where that is known.
        facts: What the caller needs to act: the field, its limit, the state found. JSON-able, never a secret.
    """

    kind: Kind = Kind.INTERNAL
    code: str = "internal"

    def __init__(
        self, detail: str, *, code: str | None = None, retry_after_s: float | None = None, **facts: Any
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s
        self.facts: dict[str, Any] = facts


class InvalidArgument(ClaveError):
    """The request itself is wrong; `field`, `limit` and the remedy belong into it."""

    kind = Kind.INVALID_ARGUMENT
    code = "invalid_argument"


class Unauthenticated(ClaveError):
    """No valid credential came with the request."""

    kind = Kind.UNAUTHENTICATED
    code = "unauthenticated"


class PermissionDenied(ClaveError):
    """The policy refused; `reasons` and `decision_id` belong into it."""

    kind = Kind.PERMISSION_DENIED
    code = "permission_denied"


class NotFound(ClaveError):
    """There is no such thing, or none that the caller may see."""

    kind = Kind.NOT_FOUND
    code = "not_found"


class AlreadyExists(ClaveError):
    """The name is taken."""

    kind = Kind.ALREADY_EXISTS
    code = "already_exists"


class FailedPrecondition(ClaveError):
    """The thing is in another state than the operation needs."""

    kind = Kind.FAILED_PRECONDITION
    code = "failed_precondition"


class PreconditionRequired(ClaveError):
    """The call must say which state it saw (If-Match)."""

    kind = Kind.PRECONDITION_REQUIRED
    code = "precondition_required"


class Aborted(ClaveError):
    """Somebody else changed the thing first."""

    kind = Kind.ABORTED
    code = "aborted"


class PayloadTooLarge(ClaveError):
    """The body is over a stated limit."""

    kind = Kind.PAYLOAD_TOO_LARGE
    code = "payload_too_large"


class ResourceExhausted(ClaveError):
    """A rate limit or a quota is used up."""

    kind = Kind.RESOURCE_EXHAUSTED
    code = "resource_exhausted"


class Unavailable(ClaveError):
    """A dependency is away."""

    kind = Kind.UNAVAILABLE
    code = "unavailable"


class DeadlineExceeded(ClaveError):
    """The caller's time is over."""

    kind = Kind.DEADLINE_EXCEEDED
    code = "deadline_exceeded"
