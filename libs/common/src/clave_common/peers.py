"""Calls from one service to another, with a short-lived signed token of its own."""

from collections.abc import Generator

import httpx

from clave_common.access.service_tokens import ServiceTokenMinter
from clave_common.mutual_tls import MutualTls
from clave_common.settings import PeerSettings


class ServiceAuth(httpx.Auth):
    """Puts a fresh service token for one target into each request."""

    def __init__(self, minter: ServiceTokenMinter, audience: str) -> None:
        self._minter = minter
        self._audience = audience

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the token; a caller that acts for somebody sets ``x-clave-on-behalf-of`` itself."""
        request.headers["authorization"] = f"Bearer {self._minter.token(self._audience)}"
        yield request


def peer_client(minter: ServiceTokenMinter, *, target: str, url: str, timeout_s: float = 10.0) -> httpx.AsyncClient:
    """Open a client to another service.

    Args:
        minter: Signs as this service.
        target: Name of the other service, the token's audience.
        url: Where it is.
        timeout_s: Seconds for one call.

    A peer at an https address is one behind mutual TLS; the certificates are those of ``CLAVE_TLS_DIR``.
    """
    tls = MutualTls.of(PeerSettings().tls_dir, minter.service) if url.startswith("https:") else None
    return httpx.AsyncClient(
        base_url=url,
        # Loading the system's authorities costs some 50 ms of CPU; a plain address needs none.
        verify=False if tls is None else tls.client_context(),
        auth=ServiceAuth(minter, target),
        trust_env=False,  # a proxy for the way out, which Docker sets in containers, would see every token
        timeout=httpx.Timeout(timeout_s, connect=2.0),
        limits=httpx.Limits(max_connections=20, max_keepalive_connections=5),
    )
