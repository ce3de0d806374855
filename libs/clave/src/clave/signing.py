"""Signs a version's files as OMS, the OpenSSF model signing specification (v1.0), says.

What is signed is the list of the version's files with their sha256, which the registry gives; no file is downloaded.
`model_signing verify key` accepts these bundles, and the registry accepts those of `model_signing sign key`.

Source: github.com/ossf/model-signing-spec; github.com/secure-systems-lab/dsse, protocol.md.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}


class UnusableSigningKey(ValueError):
    """The key is no private key on P-256, P-384 or P-521, or its password is wrong."""


def sign_files(name: str, files: Mapping[str, str], *, private_key: bytes, password: bytes | None = None) -> bytes:
    """Sign a list of files.

    Args:
        name: What the files are together, for example ``churn-v3``.
        files: Relative path to lower-case hex sha256.
        private_key: PEM of a private key on P-256, P-384 or P-521.
        password: Of the key, where it has one.

    Returns:
        A Sigstore bundle, JSON.

    Raises:
        UnusableSigningKey: The key cannot be used.
    """
    key = _loaded(private_key, password)
    payload = json.dumps(statement(name, files)).encode()
    kind = _PAYLOAD_TYPE.encode()
    signed = b" ".join((b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload))
    signature = key.sign(signed, ec.ECDSA(_HASHES[key.curve.name]))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    bundle = {
        "mediaType": _BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(public).hexdigest()}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle).encode()


def statement(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """Write the in-toto statement over a list of files; its subject is the hash over all hashes, in order of paths."""
    paths = sorted(files)
    total = hashlib.sha256(b"".join(bytes.fromhex(files[path]) for path in paths)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": total}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [],
            },
            "resources": [{"algorithm": "sha256", "digest": files[path], "name": path} for path in paths],
        },
    }


def _loaded(pem: bytes, password: bytes | None) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password)
    except (ValueError, TypeError) as error:
        raise UnusableSigningKey("The file holds no private key, or its password is wrong.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise UnusableSigningKey("Sign with a key on P-256, P-384 or P-521.")
    return key
