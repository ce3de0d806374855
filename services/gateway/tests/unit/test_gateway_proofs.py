"""A kept proof is checked without the gateway, and every spoilt one is refused with its reason."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from clave_common.audit_signatures import AuditSigner, signed_text
from clave_gateway import audit_check
from clave_gateway.domain.checkpoints import Checkpoint, sign_checkpoint
from clave_gateway.domain.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of
from clave_gateway.domain.proofs import ProofInvalid, check_proof
from clave_gateway.signing import verifies
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SIGNER = Ed25519PrivateKey.generate()
PUBLIC = SIGNER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
SERVICE = Ed25519PrivateKey.generate()
ENTRIES = [f'{{"n":{number}}}' for number in range(12)]
ENTRIES.append(AuditSigner("registry", SERVICE).signed(b'{"service":"registry"}').decode())
LEAVES = [leaf_hash(entry.encode()) for entry in ENTRIES]


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def note(size: int, *, root: bytes | None = None) -> str:
    checkpoint = Checkpoint("clave/audit", size, root or root_of(LEAVES[:size]))
    return sign_checkpoint(checkpoint, public_key=PUBLIC, sign=SIGNER.sign)


def inclusion(index: int = 4) -> dict[str, Any]:
    proof = [text(step) for step in inclusion_proof(LEAVES, index)]
    return {
        "index": index, "canonical": ENTRIES[index], "size": 13, "proof": proof, "checkpoint": note(13),
        "public_key": text(PUBLIC),
    }  # fmt: skip


def signed_by(key: Ed25519PrivateKey) -> dict[str, Any]:
    return {**inclusion(12), "service_key": text(key.public_key().public_bytes_raw())}


def consistency(old_size: int = 5, **changes: Any) -> dict[str, Any]:
    return {
        "old_size": old_size, "old_root": text(root_of(LEAVES[:old_size])), "size": 13, "root": text(root_of(LEAVES)),
        "proof": [text(step) for step in consistency_proof(LEAVES, old_size)], "old_checkpoint": None,
        "checkpoint": note(13), "public_key": text(PUBLIC), **changes,
    }  # fmt: skip


def test_good_proofs_say_what_they_prove() -> None:
    assert "entry 4 is in the log of 13" in check_proof(
        inclusion(), verify=verifies, signed_text=signed_text, trusted_key=text(PUBLIC)
    )
    assert check_proof(inclusion(), verify=verifies, signed_text=signed_text, kept=note(13))
    for old_size in (1, 5, 8, 13):
        said = check_proof(consistency(old_size), verify=verifies, signed_text=signed_text, kept=note(old_size))
        assert f"extends the one of {old_size}; signed: " in said
    assert "registry" in check_proof(signed_by(SERVICE), verify=verifies, signed_text=signed_text)
    unsigned = consistency(checkpoint=None)
    assert "signed: neither" in check_proof(unsigned, verify=verifies, signed_text=signed_text)


@pytest.mark.parametrize(
    ("proof", "kept", "why"),
    [
        ({**inclusion(), "canonical": "{}"}, None, "does not lead to the root"),
        ({**inclusion(), "index": 5}, None, "does not lead to the root"),
        (inclusion(), note(12), "another one"),
        ({**inclusion(), "checkpoint": note(13)[:-20]}, None, "not the log's"),
        ({**inclusion(), "public_key": text(b"x" * 32)}, None, "not the log's"),
        (consistency(old_root=text(root_of(LEAVES[:6]))), None, "does not extend"),
        (consistency(root=text(root_of(LEAVES[:12]))), None, "does not extend"),
        (consistency(proof=[]), None, "does not extend"),
        (consistency(), note(5, root=b"r" * 32), "forked"),
        (consistency(), note(7), "not an end"),
        (consistency(checkpoint=note(13, root=b"r" * 32)), None, "forked"),
        (inclusion(12), None, "no proof"),
        (signed_by(Ed25519PrivateKey.generate()), None, "did not sign it"),
        ({}, None, "no proof"),
        ({**consistency(), "proof": ["%"]}, None, "no proof"),
    ],
)
def test_a_spoilt_proof_is_refused(proof: dict[str, Any], kept: str | None, why: str) -> None:
    with pytest.raises(ProofInvalid, match=why):
        check_proof(proof, verify=verifies, signed_text=signed_text, kept=kept)


def test_a_log_of_another_key_is_not_the_trusted_one() -> None:
    with pytest.raises(ProofInvalid, match="not by the key"):
        check_proof(inclusion(), verify=verifies, signed_text=signed_text, trusted_key="AAAA")


def test_the_command_needs_no_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, proof = tmp_path / "kept.txt", tmp_path / "proof.json"
    kept.write_text(note(5))
    for found, status in ((consistency(), 0), (consistency(proof=[]), 1)):
        proof.write_text(json.dumps(found))
        monkeypatch.setattr(sys, "argv", ["x", str(proof), "--checkpoint", str(kept)])
        assert audit_check.main() == status
    out = capsys.readouterr()
    assert "extends the one of 5; signed: 5 and 13" in out.out
    assert "does not extend" in out.err
