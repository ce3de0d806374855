"""API keys: how one is made, written, recognised and checked.

``clave_<env>_<id>_<secret>_<checksum>``: the id finds the record, the secret (256 random bits) proves the holder, the
checksum (CRC-32 of all before it) tells a typing error from a guess without any look-up, and the prefix lets secret
scanners find leaked keys. Only an HMAC-SHA256 of the secret under the installation's pepper is ever stored: a secret
of 256 bits needs no slow hash, and a slow hash on this path would be a denial of service by itself.
"""

import binascii
import hmac
import re
import secrets
from dataclasses import dataclass

_FORM = re.compile(r"clave_([a-z]{2,12})_([0-9a-z]{16})_([A-Za-z0-9_-]{43})_([0-9a-f]{8})", re.ASCII)
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_LENGTH = 16
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in the clear; exists only while it is handed out or checked."""

    environment: str
    id: str
    secret: str

    def __repr__(self) -> str:
        return f"ApiKey(id={self.id!r})"

    @property
    def text(self) -> str:
        """The key as its holder sends it."""
        body = f"clave_{self.environment}_{self.id}_{self.secret}"
        return f"{body}_{_checksum(body)}"

    def mac(self, pepper: bytes) -> str:
        """HMAC-SHA256 of id and secret, hex; what is stored."""
        return hmac.digest(pepper, f"{self.id}:{self.secret}".encode(), "sha256").hex()


def new_api_key(environment: str = "live") -> ApiKey:
    """Make a key from the operating system's randomness."""
    return ApiKey(
        environment=environment,
        id="".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH)),
        secret=secrets.token_urlsafe(_SECRET_BYTES),
    )


def parse_api_key(text: str) -> ApiKey | None:
    """Recognise a key; None when the form or the checksum is wrong."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    environment, identifier, secret, checksum = match.groups()
    body = text[: -len(checksum) - 1]
    if _checksum(body) != checksum:
        return None
    return ApiKey(environment, identifier, secret)


def same_mac(one: str, other: str) -> bool:
    """Compare two MACs in constant time."""
    return hmac.compare_digest(one, other)


def _checksum(body: str) -> str:
    return f"{binascii.crc32(body.encode()):08x}"
