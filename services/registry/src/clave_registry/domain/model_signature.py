"""Signatures over a version's files in the form of OMS, the OpenSSF model signing specification (v1.0).

A signature is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists every file with its sha256. The
registry knows these digests already, so it compares the list with the version's manifest and opens no file. Here the
bundle is read and compared; whether the key is trusted and the mathematics hold is `runtime.trusted_keys`' matter.

Only signatures by a named key are taken: certificates and Sigstore identities need a chain or a log to be asked.

Source: github.com/ossf/model-signing-spec; github.com/secure-systems-lab/dsse, protocol.md.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clave_common.errors import InvalidArgument

BUNDLE_BYTES_MAX = 1_000_000
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"


class InvalidSignature(InvalidArgument):
    """The bundle is no signature of this version's files by a trusted key."""

    code = "invalid_signature"


@dataclass(frozen=True, slots=True)
class SignedFiles:
    """What a bundle says, before anybody believes it.

    Attributes:
        files: Path to lower-case hex sha256.
        key_hint: Lower-case hex sha256 of the signer's public key as PEM.
        signed: The bytes that were signed (DSSE's pre-authentication encoding).
        signature: The signature over them.
    """

    files: Mapping[str, str]
    key_hint: str
    signed: bytes
    signature: bytes

    def require_files(self, files: Mapping[str, str]) -> None:
        """Refuse a signature over other files than these.

        Raises:
            InvalidSignature: A file is missing, added, or has other bytes.
        """
        if dict(self.files) == dict(files):
            return
        differing = sorted(path for path in {*self.files, *files} if self.files.get(path) != files.get(path))
        raise InvalidSignature(
            f"The signature is over other files: {', '.join(differing[:10])}.", paths=differing[:100]
        )


def read_bundle(raw: bytes) -> SignedFiles:
    """Read a bundle.

    Raises:
        InvalidSignature: It is no OMS v1.0 bundle with one signature by a named key, or contradicts itself.
    """
    if len(raw) > BUNDLE_BYTES_MAX:
        raise InvalidSignature(f"A bundle has at most {BUNDLE_BYTES_MAX} bytes.", limit=BUNDLE_BYTES_MAX)
    try:
        return _read(json.loads(raw))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, binascii.Error) as error:
        raise InvalidSignature("The bundle is no OMS v1.0 signature by a named key.") from error


def _read(bundle: Any) -> SignedFiles:
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    (signature,) = envelope["signatures"]
    hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    statement = json.loads(payload)
    predicate = statement["predicate"]
    expected = (
        envelope["payloadType"] == PAYLOAD_TYPE
        and statement["_type"] == STATEMENT_TYPE
        and statement["predicateType"] == PREDICATE_TYPE
        and predicate["serialization"]["method"] == "files"
        and isinstance(hint, str)
        and bool(hint)
    )
    if not expected:
        raise InvalidSignature("The bundle is of a type or version that is not known here.")
    return SignedFiles(
        files=_files(statement["subject"], predicate["resources"]),
        key_hint=hint,
        signed=pre_authentication_encoding(PAYLOAD_TYPE, payload),
        signature=base64.b64decode(signature["sig"], validate=True),
    )


def _files(subjects: Any, resources: Any) -> dict[str, str]:
    (subject,) = subjects
    files: dict[str, str] = {}
    total = hashlib.sha256()
    for resource in resources:
        name, digest = str(resource["name"]), str(resource["digest"])
        if resource["algorithm"] != "sha256" or name in files:
            raise InvalidSignature("A file comes twice, or is not hashed by sha256.", path=name)
        files[name] = digest
        total.update(bytes.fromhex(digest))
    if total.hexdigest() != subject["digest"]["sha256"]:
        raise InvalidSignature("The bundle's files do not hash to its subject.")
    return files


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Encode what is signed.

    Source: DSSE v1.0.2, protocol.md, "PAE".
    """
    kind = payload_type.encode()
    return b" ".join((b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload))
