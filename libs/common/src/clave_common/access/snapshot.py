"""The access snapshot: a service's own copy of keys, bindings and policy, signed by the gateway.

Services decide from it without asking anybody. It is fetched when the gateway says that something changed and once a
second besides, kept on disk as last-known-good, and believed only with the gateway's signature and a revision that
never goes back.
"""

import base64
import contextlib
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from clave_common.access.policy_bundle import PolicyBundle
from clave_common.errors import ClaveError, Unavailable

SIGNER = "gateway"
_FORMAT = 1


class SnapshotRejected(ClaveError):
    """A snapshot is not signed by the gateway, is malformed, or is older than what is held."""

    code = "snapshot_rejected"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What a service needs to check one API key.

    Attributes:
        mac: HMAC-SHA256 of the key under the pepper, hex.
        scopes: Action patterns that narrow the principal's roles.
        expires_at: Epoch seconds.
    """

    id: str
    mac: str
    subject_id: str
    tenant: str
    groups: tuple[str, ...]
    scopes: tuple[str, ...]
    expires_at: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision of everything a service decides by.

    Attributes:
        revision: Grows with every change of keys, bindings or policy.
        issued_at: Epoch seconds at which the gateway built it.
        keys: Records of active keys by id.
    """

    revision: int
    issued_at: float
    keys: Mapping[str, KeyRecord]
    bundle: PolicyBundle


def encode_snapshot(snapshot: Snapshot, key: OKPKey) -> bytes:
    """Write and sign a snapshot (gateway only)."""
    payload = orjson.dumps(
        {
            "format": _FORMAT,
            "revision": snapshot.revision,
            "issued_at": snapshot.issued_at,
            "keys": [
                {
                    "id": record.id,
                    "mac": record.mac,
                    "subject": record.subject_id,
                    "tenant": record.tenant,
                    "groups": list(record.groups),
                    "scopes": list(record.scopes),
                    "expires_at": record.expires_at,
                }
                for record in snapshot.keys.values()
            ],
            "modules": dict(snapshot.bundle.modules),
            "data": dict(snapshot.bundle.data),
        }
    )
    signature = _private(key).sign(payload)
    return orjson.dumps({"payload": payload.decode(), "signature": base64.b64encode(signature).decode()})


def decode_snapshot(raw: bytes, keys: KeySet) -> Snapshot:
    """Check the signature and read a snapshot.

    Raises:
        SnapshotRejected: Signature, form or signer is wrong.
    """
    try:
        envelope = orjson.loads(raw)
        payload = envelope["payload"].encode()
        _verify(payload, base64.b64decode(envelope["signature"], validate=True), keys)
        return _snapshot_of(orjson.loads(payload))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotRejected("The access snapshot is malformed.") from error


def _private(key: OKPKey) -> Ed25519PrivateKey:
    private = key.get_op_key("sign")
    if not isinstance(private, Ed25519PrivateKey):
        raise TypeError("snapshots are signed with Ed25519")
    return private


def _verify(payload: bytes, signature: bytes, keys: KeySet) -> None:
    try:
        key = keys.get_by_kid(SIGNER).get_op_key("verify")
    except (JoseError, ValueError) as error:
        raise SnapshotRejected("The gateway's public key is not known here.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SnapshotRejected("The gateway's public key is not an Ed25519 key.")
    try:
        key.verify(signature, payload)
    except InvalidSignature as error:
        raise SnapshotRejected("The access snapshot does not carry the gateway's signature.") from error


def _snapshot_of(document: Mapping[str, Any]) -> Snapshot:
    if document["format"] != _FORMAT:
        raise SnapshotRejected(f"The access snapshot has format {document['format']}, not {_FORMAT}.")
    records = (
        KeyRecord(
            id=item["id"],
            mac=item["mac"],
            subject_id=item["subject"],
            tenant=item["tenant"],
            groups=tuple(item["groups"]),
            scopes=tuple(item["scopes"]),
            expires_at=float(item["expires_at"]),
        )
        for item in document["keys"]
    )
    return Snapshot(
        revision=int(document["revision"]),
        issued_at=float(document["issued_at"]),
        keys=MappingProxyType({record.id: record for record in records}),
        bundle=PolicyBundle(modules=document["modules"], data=document["data"]),
    )


class SnapshotSource(Protocol):
    """Where snapshots come from: the gateway's API, or the gateway's own database."""

    async def fetch(self, revision: int | None) -> bytes | None:
        """Return the signed snapshot, or None when the given revision is still the newest.

        Raises:
            Unavailable: The source does not answer.
        """
        ...


class SnapshotFile:
    """The last-known-good snapshot on disk, so that a service can start while the gateway is away.

    The file's time says when its source was last heard: a service that starts again is not younger than what it knows.
    """

    def __init__(self, path: Path, keys: KeySet) -> None:
        self._path = path
        self._keys = keys

    def load(self) -> Snapshot | None:
        """Return the snapshot on disk; None when there is none or it is damaged."""
        try:
            return decode_snapshot(self._path.read_bytes(), self._keys)
        except (FileNotFoundError, SnapshotRejected):
            return None

    def age_s(self) -> float:
        """Seconds since the source was heard; endless where there is no file."""
        try:
            return max(0.0, time.time() - self._path.stat().st_mtime)
        except FileNotFoundError:
            return math.inf

    def note_contact(self) -> None:
        """Remember that the source was heard now and had nothing newer."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path)

    def save(self, raw: bytes) -> None:
        """Replace it atomically; readable by the service alone, because it holds MACs of keys."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
        temporary.replace(self._path)


def no_snapshot() -> Unavailable:
    """Build the refusal of a service that has no copy of keys and policy yet."""
    return Unavailable(
        "This service has not yet received keys and policy from the gateway. Try again shortly.",
        code="access_snapshot_missing",
        retry_after_s=1.0,
    )
