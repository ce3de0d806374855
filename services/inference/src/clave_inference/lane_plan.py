"""What the lane remembers of a head that it has seen: the parser's findings, under the head's bytes."""

from typing import Final

from clave_inference.domain.trace import trace_of
from clave_inference.services.admissions import Credential
from clave_inference.services.plain_runs import Shortcut

_REQUEST_ID: Final = b"\r\nx-request-id: "
_REQUEST_ID_CHARACTERS_MAX: Final = 64


class Plan:
    """What a request's head says, wherever it arrives from one address.

    Attributes:
        plain: Whether the body may be a plain row.
        shortcut: What is known about such bodies.
    """

    __slots__ = (
        "bridged",
        "credential",
        "header_length",
        "length",
        "model",
        "plain",
        "routing_key",
        "shortcut",
        "timeout",
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
        self.timeout = found.get(b"grpc-timeout")
        self.trace = trace_of(found.get(b"traceparent"), found.get(b"tracestate"))
        self.length = length
        self.bridged = bridged
        self.shortcut = Shortcut()
        self.plain = not bridged and self.header_length is None and self.trace is None


def plan_key(head: bytes) -> bytes:
    """Leave the edge's request id out of a head: nothing depends on it, and it differs each time.

    Only a plain id is left out. Anything else could be more than a value, a second header behind a bare line feed say,
    and is the parser's to judge.
    """
    at = head.find(_REQUEST_ID)
    if at < 0:
        return head
    end = head.find(b"\r\n", at + len(_REQUEST_ID))
    value = head[at + len(_REQUEST_ID) : end]
    if len(value) > _REQUEST_ID_CHARACTERS_MAX or not value.replace(b"-", b"").isalnum():
        return head
    return head[:at] + head[end:]
