"""Sends one signed body to one checked address.

The name is resolved once, every address is checked, and the connection goes to a checked address; so a name that
changes between check and use leads nowhere (DNS rebinding). TLS still verifies the name. Redirects are not followed,
proxies from the environment are not used, and of the answer only the status is read.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore

from clave_registry.domain.webhook import AllowList, HostNotAllowed, Target

ANSWER_S_MAX = 15.0
_CONNECT_S_MAX = 5.0
Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of sending.

    Attributes:
        status: The receiver's HTTP status; None when it gave none.
        error: What went wrong, in a few words; empty for an answer.
    """

    status: int | None
    error: str
    duration_ms: float


async def resolved(host: str, port: int) -> list[str]:
    """Look a name up once: all its addresses, in the system's order."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to one address, whatever name is asked for."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - the name was resolved and checked before
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await self._network.connect_tcp(
            self._address, port, timeout=timeout, local_address=local_address, socket_options=socket_options
        )


class WebhookSender:
    """Sends webhooks to allowed hosts."""

    def __init__(self, allowed: AllowList, *, resolve: Resolve = resolved, tls: ssl.SSLContext | None = None) -> None:
        self.allowed = allowed
        self._resolve = resolve
        self._tls = tls or ssl.create_default_context()

    async def send(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Attempt:
        """Send once; every failure is an answer."""
        started = time.monotonic()
        status: int | None = None
        error = ""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                status = await self._post(target, body, headers)
        except TimeoutError:
            error = f"no answer within {ANSWER_S_MAX:g} s"
        except HostNotAllowed as refusal:
            error = f"{refusal.code}: {refusal.detail}"
        except socket.gaierror:
            error = f"the name '{target.host}' cannot be resolved"
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, ssl.SSLError) as failure:
            error = f"{type(failure).__name__}: {failure}"[:300]
        return Attempt(status, error, round((time.monotonic() - started) * 1000, 1))

    async def _post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> int:
        self.allowed.require_host(target)
        addresses = await self._resolve(target.host, target.port)
        self.allowed.require_addresses(target, addresses)
        backend = _Pinned(addresses[0])
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        sent = {"host": target.authority, "content-length": str(len(body)), **headers}
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=backend) as pool,
            pool.stream(
                "POST",
                url,
                headers=list(sent.items()),
                content=body,
                extensions={"timeout": {"connect": _CONNECT_S_MAX, "read": ANSWER_S_MAX, "write": ANSWER_S_MAX}},
            ) as response,
        ):
            return int(response.status)
