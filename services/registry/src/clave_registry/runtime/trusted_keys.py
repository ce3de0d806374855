"""The public keys whose signatures over models count: the PEM files of one folder, read at the start."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from clave_common.errors import InvalidArgument
from clave_common.logs import get_logger
from cryptography import exceptions
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from clave_registry.domain.model_signature import InvalidSignature, SignedFiles, read_bundle

_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_log = get_logger(__name__)


class UnusableKey(InvalidArgument):
    """A file in the folder of trusted keys is no public key on a NIST curve."""

    code = "unusable_key"


class TrustedKeys:
    """Verifies signatures by keys that the operator trusts."""

    def __init__(self, keys: Mapping[str, ec.EllipticCurvePublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def from_folder(cls, folder: Path | None) -> "TrustedKeys":
        """Read every ``*.pem`` of a folder; none where there is no folder.

        Raises:
            UnusableKey: A file is none; a service that cannot read what it trusts must not start.
        """
        if folder is None:
            return cls({})
        if not folder.is_dir():
            raise UnusableKey(f"CLAVE_REGISTRY_SIGNING_KEYS_DIR names no folder: {folder.name}.")
        keys = dict(_loaded(path) for path in sorted(folder.glob("*.pem")))
        _log.info("signing_keys_trusted", keys=sorted(keys))
        return cls(keys)

    def verify(self, bundle: bytes, files: Mapping[str, str]) -> str:
        """Verify a bundle over a version's files.

        Args:
            bundle: As it was made by a signer.
            files: Path to sha256, the version's manifest.

        Returns:
            The id of the key that signed: the sha256 of its PEM.

        Raises:
            InvalidSignature: The key is not trusted, the signature does not hold, or it is over other files.
        """
        found = read_bundle(bundle)
        self._require_signed(found)
        found.require_files(files)
        return found.key_hint

    def _require_signed(self, found: SignedFiles) -> None:
        key = self._keys.get(found.key_hint)
        if key is None:
            raise InvalidSignature(
                "The signer's key is not among the trusted ones; an operator adds its public key to the folder that "
                "CLAVE_REGISTRY_SIGNING_KEYS_DIR names.",
                key_id=found.key_hint[:64],
            )
        try:
            key.verify(found.signature, found.signed, ec.ECDSA(_HASHES[key.curve.name]))
        except exceptions.InvalidSignature as error:
            raise InvalidSignature("The signature does not hold.", key_id=found.key_hint) from error


def _loaded(path: Path) -> tuple[str, ec.EllipticCurvePublicKey]:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, exceptions.UnsupportedAlgorithm) as error:
        raise UnusableKey(f"{path.name} is no public key.", file=path.name) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise UnusableKey(f"{path.name} is no key on P-256, P-384 or P-521.", file=path.name)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest(), key
