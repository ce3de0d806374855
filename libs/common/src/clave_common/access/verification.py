"""From what a request carries to the caller behind it."""

from dataclasses import dataclass, field
from typing import Protocol

from clave_common.access.model import Caller


@dataclass(frozen=True, slots=True)
class Presented:
    """The parts of a request that identify somebody; anything else is ignored.

    Attributes:
        authorization: The raw ``Authorization`` value, or None.
        source_ip: Address of the connection's other end.
        claimed_ip: ``x-envoy-external-address``; counts only with the edge's proof (`clave_common.access.edge`).
        edge_proof: ``x-clave-edge``.
        break_glass: ``clave-break-glass``, a ticket and the reason: "INC-12345 the model answers NaN".
        on_behalf_of: ``x-clave-on-behalf-of``; believed only of a service.
    """

    authorization: str | None
    source_ip: str | None
    on_behalf_of: str | None = None
    claimed_ip: str | None = None
    edge_proof: str | None = field(default=None, repr=False)
    break_glass: str | None = None


class CredentialVerifier(Protocol):
    """Checks credentials locally, from the service's own copy of the gateway's keys."""

    async def verify(self, presented: Presented) -> Caller | None:
        """Return the caller, or None when nothing was presented.

        Raises:
            Unauthenticated: Something was presented and it is wrong, expired or revoked.
            ResourceExhausted: Too many failed attempts from this address.
            Unavailable: The service has no copy of the keys yet.
        """
        ...
