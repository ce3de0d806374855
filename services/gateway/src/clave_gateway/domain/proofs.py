"""Checks a kept proof without the gateway: what `python -m clave_gateway.audit_check` does.

A proof is the JSON that `/audit/entries/{id}/proof` or `/audit/consistency` answered. It states the log's public key
itself, so whoever checks compares that with the key they trust; a checkpoint they kept must be one of those that the
proof connects.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clave_gateway.domain.checkpoints import Checkpoint, CheckpointInvalid, read_checkpoint
from clave_gateway.domain.merkle import consistent, leaf_hash, root_from_inclusion

Verify = Callable[[bytes, bytes, bytes], bool]
"""Tells whether (public key, signature, text) belong together."""
SignedText = Callable[[Mapping[str, Any]], bytes]
"""Writes what a service signs of an audit entry."""
Read = Callable[[str], Checkpoint]


class ProofInvalid(Exception):
    """The proof proves nothing; the message says why."""


def check_proof(
    proof: Mapping[str, Any],
    *,
    verify: Verify,
    signed_text: SignedText,
    trusted_key: str | None = None,
    kept: str | None = None,
) -> str:
    """Check a proof and say what it proves.

    Args:
        proof: An inclusion or consistency proof as the gateway answered it.
        verify: Checks an Ed25519 signature.
        signed_text: For the signature of the entry's own service, where it has one.
        trusted_key: Base64 of the key that the log must have.
        kept: A checkpoint's note that was kept elsewhere.

    Raises:
        ProofInvalid: It does not hold.
    """
    try:
        key = str(proof["public_key"])
        if trusted_key is not None and key != trusted_key:
            raise ProofInvalid(f"the proof is signed by {key}, not by the key that is trusted")
        raw = base64.b64decode(key, validate=True)

        def read(note: str) -> Checkpoint:
            return read_checkpoint(note, public_key=raw, verify=lambda sign, text: verify(raw, sign, text))

        if "canonical" in proof:
            return _inclusion(proof, read, kept) + _signer_of(proof, verify, signed_text)
        return _consistency(proof, read, kept)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ProofInvalid(f"this is no proof of the audit log: {type(error).__name__} {error}") from error
    except CheckpointInvalid as error:
        raise ProofInvalid(f"a checkpoint of it is not the log's: {error}") from error


def _steps(proof: Mapping[str, Any]) -> Sequence[bytes]:
    return [base64.b64decode(step, validate=True) for step in proof["proof"]]


def _inclusion(proof: Mapping[str, Any], read: Read, kept: str | None) -> str:
    checkpoint = read(proof["checkpoint"])
    leaf, index = leaf_hash(str(proof["canonical"]).encode()), int(proof["index"])
    if root_from_inclusion(leaf, index, checkpoint.size, _steps(proof)) != checkpoint.root:
        raise ProofInvalid(f"the entry does not lead to the root that was signed for {checkpoint.size} entries")
    if kept is not None and read(kept) != checkpoint:
        raise ProofInvalid("the checkpoint that was kept is another one; prove the way between them first")
    return f"entry {index} is in the log of {checkpoint.size} entries that {checkpoint.origin} signed"


def _signer_of(proof: Mapping[str, Any], verify: Verify, signed_text: SignedText) -> str:
    """Say which service signed the entry; nothing where it carries no signature."""
    fields = json.loads(proof["canonical"])
    signature = fields.get("signature")
    if signature is None:
        return ""
    key, value = (base64.b64decode(str(part), validate=True) for part in (proof["service_key"], signature["value"]))
    if signature["kid"] != fields["service"] or not verify(key, value, signed_text(fields)):
        raise ProofInvalid("the service that the entry names did not sign it")
    return f"; {fields['service']} signed the entry itself, with the key {proof['service_key']}"


def _consistency(proof: Mapping[str, Any], read: Read, kept: str | None) -> str:
    old_size, size = int(proof["old_size"]), int(proof["size"])
    old_root, root = (base64.b64decode(proof[end], validate=True) for end in ("old_root", "root"))
    if not consistent(old_size=old_size, old_root=old_root, size=size, root=root, proof=_steps(proof)):
        raise ProofInvalid(f"the log of {size} entries does not extend the one of {old_size}")
    ends, signed = {old_size: old_root, size: root}, set[int]()
    for note in (proof["old_checkpoint"], proof["checkpoint"], kept):
        if note is None:
            continue
        checkpoint = read(note)
        if ends.get(checkpoint.size) != checkpoint.root:
            raise ProofInvalid(f"the checkpoint of {checkpoint.size} entries is not an end of this proof, or is forked")
        signed.add(checkpoint.size)
    sure = " and ".join(str(each) for each in sorted(signed)) or "neither size"
    return f"the log of {size} entries extends the one of {old_size}; signed: {sure}"
