"""What the lane remembers of a head that it has seen: the parser's findings, under the head's bytes."""

from typing import Final

from clave_inference.domain.trace import trace_of
from clave_inference.services.admissions import Admission, Credential

_TIMEOUT: Final = b"\r\ngrpc-timeout: "
_VARYING: Final = {b"x-request-id": b"\r\nx-request-id: ", b"grpc-timeout": _TIMEOUT}
_VALUE_CHARACTERS_MAX: Final = 64


class Plan:
    """What a request's head says, wherever it arrives from one address.

    Attributes:
        plain: Whether the body may be a plain row.
        admission: The caller's leave when it was last looked up.
    """

    __slots__ = (
        "admission",
        "bridged",
        "credential",
        "header_length",
        "length",
        "model",
        "plain",
        "routing_key",
        "trace",
        "version",
    )

    def __init__(
        self,
        target: tuple[str, str | None],
        credential: Credential,
        found: dict[bytes, bytes],
        *,
        length: int,
        bridged: bool,
    ) -> None:
        routing_key = found.get(b"x-routing-key")
        self.model, self.version = target
        self.credential = credential
        self.header_length = found.get(b"inference-header-content-length")
        self.routing_key = None if routing_key is None else routing_key.decode("latin-1")
        self.trace = trace_of(found.get(b"traceparent"), found.get(b"tracestate"))
        self.length = length
        self.bridged = bridged
        self.admission: Admission | None = None
        self.plain = not bridged and self.header_length is None and self.trace is None


def plan_key(head: bytes) -> bytes:
    """Leave out of a head what differs each time: the edge's request id, and a gRPC call's deadline.

    Only plain values are left out. Anything else could be more than a value, a second header behind a bare line feed
    say, and is the parser's to judge.
    """
    for name in _VARYING.values():
        at = head.find(name)
        if at < 0:
            continue
        end = head.find(b"\r\n", at + len(name))
        value = head[at + len(name) : end]
        if len(value) <= _VALUE_CHARACTERS_MAX and value.replace(b"-", b"").isalnum():
            head = head[:at] + head[end:]
    return head


def may_come_again(key: bytes, found: dict[bytes, bytes]) -> bool:
    """Whether a key holds nothing that differs each time, or stands twice.

    Args:
        key: What `plan_key` left of a head.
        found: The head's headers.
    """
    return not any(name in found and form[:-1] in key.lower() for name, form in _VARYING.items())


def timeout_in(head: bytes) -> bytes | None:
    """Read the deadline that `plan_key` left out of a head."""
    at = head.find(_TIMEOUT)
    return None if at < 0 else head[at + len(_TIMEOUT) : head.find(b"\r\n", at + len(_TIMEOUT))]
