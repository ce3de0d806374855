"""The gateway's own key: signs snapshots, bundles and checkpoints, and checks what it signed."""

import base64
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from joserfc.jwk import OKPKey


def verifies(public_key: bytes, signature: bytes, text: bytes) -> bool:
    """Tell whether a signature over a text is a key's."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


class GatewaySigner:
    """Holds the private key of ``<secrets_dir>/gateway.pem``."""

    def __init__(self, pem: bytes) -> None:
        private = load_pem_private_key(pem, password=None)
        if not isinstance(private, Ed25519PrivateKey):
            raise TypeError("the gateway signs with Ed25519")
        self._private = private
        self.jwk = OKPKey.import_key(pem)
        self.public_key = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def from_file(cls, path: Path) -> "GatewaySigner":
        """Read the key."""
        return cls(path.read_bytes())

    def sign(self, text: bytes) -> bytes:
        """Sign; 64 bytes."""
        return self._private.sign(text)

    def sign_text(self, text: str) -> str:
        """Sign text; base64."""
        return base64.b64encode(self.sign(text.encode())).decode()

    def verifies(self, signature: bytes, text: bytes) -> bool:
        """Tell whether a signature is this key's over a text."""
        try:
            self._private.public_key().verify(signature, text)
        except InvalidSignature:
            return False
        return True

    def verifies_text(self, signature: str, text: str) -> bool:
        """Tell whether a base64 signature is this key's over a text."""
        try:
            return self.verifies(base64.b64decode(signature, validate=True), text.encode())
        except ValueError:
            return False
