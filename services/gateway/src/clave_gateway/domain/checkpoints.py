"""Signed checkpoints of the audit log, in the C2SP note format (signed-note, tlog-checkpoint).

A checkpoint is three lines (origin, size, root in base64), an empty line, and a signature line: an em dash, the
signer's name, and base64 of a four-byte key hash followed by an Ed25519 signature over the three lines.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

_ED25519 = b"\x01"
_KEY_HASH_BYTES = 4
_DASH = "\u2014"


class CheckpointInvalid(Exception):
    """A note is malformed or its signature is not the log's."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the log commits to.

    Attributes:
        origin: Name of the log.
        size: Number of entries.
        root: SHA-256 Merkle root, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """The signed text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def key_hash(name: str, public_key: bytes) -> bytes:
    """The four bytes by which a signature names its key (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:_KEY_HASH_BYTES]


def sign_checkpoint(checkpoint: Checkpoint, *, public_key: bytes, sign: Callable[[bytes], bytes]) -> str:
    """Write a checkpoint as a signed note."""
    body = checkpoint.body()
    signature = key_hash(checkpoint.origin, public_key) + sign(body.encode())
    return f"{body}\n{_DASH} {checkpoint.origin} {base64.b64encode(signature).decode()}\n"


def read_checkpoint(note: str, *, public_key: bytes, verify: Callable[[bytes, bytes], bool]) -> Checkpoint:
    """Check a note's signature and read it.

    Args:
        note: The whole note.
        public_key: The log's Ed25519 key, 32 bytes.
        verify: Tells whether (signature, text) is good.

    Raises:
        CheckpointInvalid: The form or the signature is wrong.
    """
    body, separator, signatures = note.partition("\n\n")
    lines = body.split("\n")
    if not separator or len(lines) != 3:  # noqa: PLR2004 - origin, size, root
        raise CheckpointInvalid("not a checkpoint of three lines and a signature")
    origin, size, root = lines
    prefix = f"{_DASH} {origin} "
    line = next((line for line in signatures.splitlines() if line.startswith(prefix)), None)
    if line is None:
        raise CheckpointInvalid("no signature by the log")
    try:
        raw = base64.b64decode(line.removeprefix(prefix), validate=True)
        checkpoint = Checkpoint(origin, int(size), base64.b64decode(root, validate=True))
    except (binascii.Error, ValueError) as error:
        raise CheckpointInvalid("malformed base64 or size") from error
    if raw[:_KEY_HASH_BYTES] != key_hash(origin, public_key):
        raise CheckpointInvalid("signed by another key")
    if not verify(raw[_KEY_HASH_BYTES:], f"{body}\n".encode()):
        raise CheckpointInvalid("the signature does not fit the text")
    return checkpoint
