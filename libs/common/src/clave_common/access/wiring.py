"""Puts a service's enforcement together from its settings: what `app.py` of every service calls.

kit = open_access(settings, service="registry", redis=redis)
app = create_service_app(..., access=kit.access, verifier=kit.verifier, ...)
background.add("access", kit.run)         # keeps the snapshot fresh
client = peer_client(kit.minter, target="monitor", url=settings.peers.monitor_url)
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from clave_common.access.enforcement import Access
from clave_common.access.service_tokens import ServiceTokenMinter
from clave_common.access.verification import CredentialVerifier
from clave_common.background import Background


@dataclass(frozen=True, slots=True)
class AccessKit:
    """One service's enforcement.

    Attributes:
        run: The loop that keeps keys and policy fresh; takes the service's `Background`.
        ready: Raises Unavailable while there is no snapshot to decide by (a readiness check).
    """

    access: Access
    verifier: CredentialVerifier
    minter: ServiceTokenMinter
    run: Callable[[Background], Awaitable[None]]
    ready: Callable[[], Awaitable[None]]


# GATEWAY HELPER: write here
#   def open_access(settings: ServiceSettings, *, service: str, redis: Redis | None) -> AccessKit
# Reads <secrets_dir>/<service>.pem, services.jwks.json, pepper; loads the last-known-good snapshot from
# <data_dir>/access-snapshot.json, refreshes it from settings.peers.gateway_url; embedded engine or OPA by
# settings.peers.opa_url. The gateway service itself passes its own snapshot source (an optional argument).
