"""Signatures by which a service vouches for its audit entries, so that no other can write in its name.

An entry is signed when it leaves its service: by the relay of the outbox, or by the log of decisions where it is a
read. It leaves as a JSON object with one member more:

    "signature": {"kid": "registry", "value": "<base64 of 64 bytes>"}

Signed (Ed25519, RFC 8032) are `DOMAIN` and the canonical JSON (RFC 8785) of the entry without that member. `kid` is
the service that the entry names, or the signature does not count. The member stays in the log, under the Merkle
tree's leaf, so that whoever has the services' public keys can check it years later.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from rfc8785 import CanonicalizationError, IntegerDomainError

from clave_common.canonical_json import canonical_json, within_json

DOMAIN = b"clave audit entry v1\n"
"""Begins every signed text: no token, note or bundle that a service signs with the same key begins so."""
SIGNATURE = "signature"
RETIRED_KEYS_FILE = "services.retired.jwks.json"
"""Public keys that were replaced; they count for entries that are in the log already."""
MALFORMED = "malformed"
"""The reason of a refusal of what is no audit entry at all."""
FORGERIES = ("unsigned", "signature_malformed", "signed_by_another", "signature_wrong")
"""The other reasons."""
_BODY_BYTES_MAX = 1024 * 1024


class EntryRefused(Exception):
    """An audit entry is malformed, or its service did not sign it; the message is the reason, fit for a metric."""


@dataclass(frozen=True, slots=True)
class SignedEntry:
    """An entry whose signature is its service's.

    Attributes:
        fields: The entry with its signature.
        canonical: The same in canonical JSON: the data of its leaf.
    """

    fields: Mapping[str, Any]
    canonical: bytes


class AuditSigner:
    """Signs the audit entries of one service."""

    def __init__(self, service: str, private: Ed25519PrivateKey) -> None:
        self._service = service
        self._private = private

    @classmethod
    def from_file(cls, service: str, path: Path) -> "AuditSigner":
        """Read the service's private key (PEM), the one that its tokens are signed with."""
        private = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(private, Ed25519PrivateKey):
            raise TypeError(f"{path} holds no Ed25519 key")
        return cls(service, private)

    def signed(self, body: bytes) -> bytes:
        """Sign an entry as it leaves.

        One that is signed already, or names another service, leaves as it is: whoever signed it answers for it. So
        does what is no entry at all; the log refuses it and says so, and nothing behind it waits.

        Args:
            body: The entry as JSON.
        """
        try:
            fields = orjson.loads(body)
            if not isinstance(fields, dict) or SIGNATURE in fields or fields.get("service") != self._service:
                return body
            return self._with_signature(fields)
        except (orjson.JSONDecodeError, CanonicalizationError):
            return body

    def _with_signature(self, fields: dict[str, Any]) -> bytes:
        try:
            text = canonical_json(fields)
        except IntegerDomainError:
            fields = within_json(fields)
            text = canonical_json(fields)
        value = base64.b64encode(self._private.sign(DOMAIN + text)).decode()
        fields[SIGNATURE] = {"kid": self._service, "value": value}
        return canonical_json(fields)


class AuditVerifier:
    """Tells whether the service that an entry names signed it.

    Args:
        keys: Public keys by service; several where a key was replaced.
    """

    def __init__(self, keys: Mapping[str, list[Ed25519PublicKey]]) -> None:
        self._keys = keys

    @classmethod
    def from_files(cls, *paths: Path) -> "AuditVerifier":
        """Read everybody's public keys (``services.jwks.json``, `RETIRED_KEYS_FILE`); a file may be missing."""
        keys: dict[str, list[Ed25519PublicKey]] = {}
        for path in paths:
            for service, key in _keys_of(path):
                keys.setdefault(service, []).append(key)
        return cls(keys)

    def checked(self, body: bytes) -> SignedEntry:
        """Read an entry and check who signed it.

        Raises:
            EntryRefused: It is malformed, unsigned, or signed by another than it names.
        """
        if len(body) > _BODY_BYTES_MAX:
            raise EntryRefused(MALFORMED)
        try:
            fields = orjson.loads(body)
            if not isinstance(fields, dict):
                raise EntryRefused(MALFORMED)
            canonical = canonical_json(fields)
        except (orjson.JSONDecodeError, CanonicalizationError) as error:
            raise EntryRefused(MALFORMED) from error
        self.check(fields)
        return SignedEntry(fields, canonical)

    def check(self, fields: Mapping[str, Any]) -> None:
        """Check the signature that an entry carries.

        Raises:
            EntryRefused: It has none, or another's than its service's.
        """
        signature = fields.get(SIGNATURE)
        if signature is None:
            raise EntryRefused("unsigned")
        try:
            kid, value = str(signature["kid"]), base64.b64decode(signature["value"], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise EntryRefused("signature_malformed") from error
        if kid != fields.get("service"):
            raise EntryRefused("signed_by_another")
        text = signed_text(fields)
        if not any(_fits(key, value, text) for key in self._keys.get(kid, ())):
            raise EntryRefused("signature_wrong")

    def signed_with(self, fields: Mapping[str, Any]) -> bytes | None:
        """Give the public key (32 bytes) with which an entry was signed; None where none of ours fits."""
        for key in self._keys.get(str(fields.get("service")), ()):
            try:
                AuditVerifier({str(fields["service"]): [key]}).check(fields)
            except EntryRefused:
                continue
            return key.public_bytes_raw()
        return None


def signed_text(fields: Mapping[str, Any]) -> bytes:
    """Give what a service signs of an entry: everything but the signature."""
    return DOMAIN + canonical_json({name: value for name, value in fields.items() if name != SIGNATURE})


def _fits(key: Ed25519PublicKey, signature: bytes, text: bytes) -> bool:
    try:
        key.verify(signature, text)
    except InvalidSignature:
        return False
    return True


def _keys_of(path: Path) -> Iterator[tuple[str, Ed25519PublicKey]]:
    if not path.exists():
        return
    for key in json.loads(path.read_text())["keys"]:
        if key.get("crv") == "Ed25519":
            raw = base64.urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4))
            yield key["kid"], Ed25519PublicKey.from_public_bytes(raw)
