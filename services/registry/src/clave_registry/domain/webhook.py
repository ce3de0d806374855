"""Webhooks: where they may go, how they are signed, and when a failed delivery is tried again.

Rules:
* A webhook goes only to a host that the operator listed, by name or as ``*.suffix``. A listed name is no pass into
  private networks: every address that it resolves to must be public, or lie in a network listed for that purpose.
* Plain HTTP is only for listed networks; everything else is HTTPS.
* Bodies are CloudEvents 1.0 (structured mode) or OpenLineage run events, signed as Standard Webhooks 1.0 says: the
  HMAC-SHA256 of ``id.timestamp.body``, so that neither body nor time nor id can be exchanged.
* Secrets are derived, never stored: what is not in the database cannot leak from it.
* A delivery is tried `ATTEMPTS_MAX` times with growing pauses; 410 Gone ends it and the webhook at once.
"""

import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from clave_common.errors import InvalidArgument, PermissionDenied

ATTEMPTS_MAX = 12
PAUSE_S_MAX = 6 * 3600.0
URL_CHARACTERS_MAX = 2_000
SECRET_PREFIX = "whsec_"  # noqa: S105 - Standard Webhooks' own prefix, no secret
_PAUSE_FIRST_S = 5.0
_PAUSE_GROWTH = 3.0
_DNS_NAME_CHARACTERS_MAX = 253
_GONE = 410
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class InvalidWebhookUrl(InvalidArgument):
    """The address is no plain http(s) URL."""

    code = "invalid_webhook_url"


class HostNotAllowed(PermissionDenied):
    """The operator has not listed the host, or it leads into a network that is not listed."""

    code = "host_not_allowed"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a webhook goes.

    Attributes:
        scheme: ``https`` or ``http``.
        host: Lower-case name or address, without brackets.
        port: TCP port.
        path: Path and query, beginning with ``/``.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"https": 443, "http": 80}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class AllowList:
    """What the operator lets webhooks reach.

    Attributes:
        hosts: Lower-case names, ``*.suffix`` patterns, or addresses.
        networks: Networks that are not public and may be reached all the same.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, hosts: str, networks: str) -> "AllowList":
        """Read two comma-separated lists.

        Raises:
            InvalidArgument: A network is written wrongly.
        """
        try:
            parsed = tuple(ipaddress.ip_network(text) for text in _items(networks))
        except ValueError as error:
            raise InvalidArgument(f"A network is written like 10.0.0.0/8: {error}.", field="networks") from error
        return cls(tuple(text.lower() for text in _items(hosts)), parsed)

    def require_host(self, target: Target) -> None:
        """Refuse a host that is not listed.

        Raises:
            HostNotAllowed: It is not.
        """
        for pattern in self.hosts:
            if pattern == target.host or (pattern.startswith("*.") and target.host.endswith(pattern[1:])):
                return
        raise HostNotAllowed(
            f"Webhooks may not go to '{target.host}'; an operator lists hosts in CLAVE_REGISTRY_WEBHOOK_HOSTS.",
            host=target.host,
        )

    def require_addresses(self, target: Target, addresses: Sequence[str]) -> None:
        """Refuse a host unless every address it resolves to may be reached.

        Raises:
            HostNotAllowed: One is neither public nor in a listed network, or plain HTTP would leave the listed ones.
        """
        if not addresses:
            raise HostNotAllowed(f"'{target.host}' resolves to nothing.", host=target.host)
        for text in addresses:
            address = embedded(ipaddress.ip_address(text.partition("%")[0]))
            listed = any(address.version == network.version and address in network for network in self.networks)
            if listed:
                continue
            if not address.is_global or address.is_multicast or address.is_reserved:
                raise HostNotAllowed(
                    f"'{target.host}' leads to {address}, which is not public; an operator lists such networks in "
                    "CLAVE_REGISTRY_WEBHOOK_NETWORKS.",
                    host=target.host,
                )
            if target.scheme == "http":
                raise HostNotAllowed(f"Use https for '{target.host}'; plain http would be readable.", host=target.host)


def _items(text: str) -> Iterable[str]:
    return (part.strip() for part in text.split(",") if part.strip())


def embedded(address: Address) -> Address:
    """Give the IPv4 address that an IPv6 one carries (mapped, 6to4, Teredo, NAT64), or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    teredo = address.teredo
    inner = address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


def parsed_target(url: str) -> Target:
    """Read a webhook's address.

    Raises:
        InvalidWebhookUrl: Not http(s), credentials or a fragment in it, no host, an odd port, control characters.
    """
    if len(url) > URL_CHARACTERS_MAX or not url.isascii() or any(c <= " " or c in {"\x7f", "\\"} for c in url):
        raise InvalidWebhookUrl(
            f"A webhook's url has at most {URL_CHARACTERS_MAX} printable ASCII characters.", field="url"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidWebhookUrl(f"The url cannot be read: {error}.", field="url") from error
    host = (parts.hostname or "").rstrip(".").lower()
    if parts.scheme not in {"https", "http"} or not host or len(host) > _DNS_NAME_CHARACTERS_MAX:
        raise InvalidWebhookUrl("A webhook's url begins with https:// and names a host.", field="url")
    if "@" in parts.netloc or parts.fragment or port == 0:
        raise InvalidWebhookUrl("A webhook's url has no user, password, fragment or port 0.", field="url")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or {"https": 443, "http": 80}[parts.scheme], path)


def derived_secret(key: bytes, webhook_id: str, generation: int) -> str:
    """Derive a webhook's secret; shown when it is made or rotated, never stored.

    Args:
        key: The registry's key for webhooks.
        webhook_id: Which webhook.
        generation: 1 at first, one more with each rotation.

    Returns:
        ``whsec_`` and 32 bytes in base64.
    """
    raw = hmac.new(key, f"{webhook_id}:{generation}".encode(), hashlib.sha256).digest()
    return SECRET_PREFIX + base64.b64encode(raw).decode()


def signature(secret: str, *, message_id: str, timestamp: int, body: bytes) -> str:
    """Sign a delivery.

    Source: Standard Webhooks 1.0, section "Signature scheme".
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Outcome(StrEnum):
    """What follows from an attempt."""

    DELIVERED = "delivered"
    PENDING = "pending"
    FAILED = "failed"
    GONE = "gone"


def outcome_of(status: int | None, *, attempts: int) -> Outcome:
    """Decide what follows from an attempt.

    Args:
        status: The receiver's HTTP status; None when it gave none.
        attempts: How many there have been, this one included.
    """
    if status is not None and 200 <= status < 300:  # noqa: PLR2004 - HTTP's own numbers
        return Outcome.DELIVERED
    if status == _GONE:
        return Outcome.GONE
    return Outcome.PENDING if attempts < ATTEMPTS_MAX else Outcome.FAILED


def pause_s(attempts: int, *, delivery_id: str) -> float:
    """Tell how long to wait after a failed attempt: 5 s, 15 s, 45 s ... up to 6 h, moved by up to 20 %.

    The spread comes from the delivery's id, so that a receiver that comes back is not met by all of them at once.
    """
    spread = int.from_bytes(hashlib.sha256(delivery_id.encode()).digest()[:2], "big") / 65535
    pause: float = min(PAUSE_S_MAX, _PAUSE_FIRST_S * _PAUSE_GROWTH ** (attempts - 1))
    return pause * (0.9 + 0.2 * spread)
