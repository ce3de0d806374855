"""Signatures count when a trusted key made them over exactly the version's files; nothing else does."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clave.signing import UnusableSigningKey, sign_files
from clave_registry.domain.model_signature import InvalidSignature, read_bundle
from clave_registry.runtime.trusted_keys import TrustedKeys, UnusableKey
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

DATA = Path(__file__).parent / "data"
# The files over which `model_signing sign key` 1.1.1 made the recorded bundle.
SIGNED = {
    "model.onnx": hashlib.sha256(b"graph bytes").hexdigest(),
    "nested/features.json": hashlib.sha256(b'{"a": 1}').hexdigest(),
}


def key_pair(folder: Path, curve: ec.EllipticCurve | None = None) -> bytes:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    folder.mkdir(exist_ok=True)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{hashlib.sha256(public).hexdigest()[:8]}.pem").write_bytes(public)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_a_bundle_of_the_model_signing_library_verifies(tmp_path: Path) -> None:
    (tmp_path / "trusted.pem").write_bytes((DATA / "model-signing-1.1.1.pem").read_bytes())
    bundle = (DATA / "model-signing-1.1.1.sig").read_bytes()
    key_id = TrustedKeys.from_folder(tmp_path).verify(bundle, SIGNED)
    assert key_id == hashlib.sha256((DATA / "model-signing-1.1.1.pem").read_bytes()).hexdigest()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: str(c.name))
def test_what_clave_signs_verifies_on_every_curve(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    bundle = sign_files("churn-v1", SIGNED, private_key=key_pair(tmp_path, curve))
    assert len(TrustedKeys.from_folder(tmp_path).verify(bundle, SIGNED)) == 64


@pytest.mark.parametrize(
    "files",
    [
        {**SIGNED, "model.onnx": "0" * 64},
        {**SIGNED, "more.txt": "0" * 64},
        {"model.onnx": SIGNED["model.onnx"]},
        {},
    ],
    ids=["changed", "added", "removed", "none"],
)
def test_a_signature_over_other_files_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    bundle = sign_files("churn-v1", SIGNED, private_key=key_pair(tmp_path))
    with pytest.raises(InvalidSignature, match="other files"):
        TrustedKeys.from_folder(tmp_path).verify(bundle, files)


def test_a_signature_by_an_unknown_key_is_refused(tmp_path: Path) -> None:
    key_pair(tmp_path / "trusted")
    bundle = sign_files("churn-v1", SIGNED, private_key=key_pair(tmp_path / "other"))
    with pytest.raises(InvalidSignature, match="not among the trusted"):
        TrustedKeys.from_folder(tmp_path / "trusted").verify(bundle, SIGNED)
    with pytest.raises(InvalidSignature, match="not among the trusted"):
        TrustedKeys.from_folder(None).verify(bundle, SIGNED)


def forged(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """Change a bundle and the statement within it, leaving its signature as it is."""

    def forge(bundle: bytes) -> bytes:
        parsed = json.loads(bundle)
        statement = json.loads(base64.b64decode(parsed["dsseEnvelope"]["payload"]))
        change(parsed, statement)
        parsed["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
        return json.dumps(parsed).encode()

    return forge


def _other_digest(_bundle: dict[str, Any], statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"][0]["digest"] = "1" * 64


def _other_name(_bundle: dict[str, Any], statement: dict[str, Any]) -> None:
    statement["subject"][0]["name"] = "other"


def _other_predicate(_bundle: dict[str, Any], statement: dict[str, Any]) -> None:
    statement["predicateType"] = "https://example.org/else"


def _twice(_bundle: dict[str, Any], statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"] *= 2


def _no_hint(bundle: dict[str, Any], _statement: dict[str, Any]) -> None:
    bundle["verificationMaterial"]["publicKey"]["hint"] = ""


def _two_signatures(bundle: dict[str, Any], _statement: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] *= 2


@pytest.mark.parametrize("change", [_other_digest, _other_name, _other_predicate, _twice, _no_hint, _two_signatures])
def test_a_changed_bundle_is_refused(tmp_path: Path, change: Callable[..., None]) -> None:
    bundle = sign_files("churn-v1", SIGNED, private_key=key_pair(tmp_path))
    trusted = TrustedKeys.from_folder(tmp_path)
    trusted.verify(bundle, SIGNED)
    with pytest.raises(InvalidSignature):
        trusted.verify(forged(change)(bundle), SIGNED)


@given(raw=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    with pytest.raises(InvalidSignature):
        read_bundle(raw)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dsseEnvelope", "payload", "signatures", "verificationMaterial", "publicKey", "hint"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
def test_no_json_breaks_the_reader(value: Any) -> None:
    with pytest.raises(InvalidSignature):
        read_bundle(json.dumps(value).encode())


def test_a_bundle_that_is_too_large_or_too_deep_is_refused() -> None:
    for raw in (b" " * 1_000_001, b"[" * 100_000):
        with pytest.raises(InvalidSignature):
            read_bundle(raw)


def test_a_folder_with_anything_but_usable_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(b"no key")
    with pytest.raises(UnusableKey):
        TrustedKeys.from_folder(tmp_path)
    other = ed25519.Ed25519PrivateKey.generate()
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "a.pem").write_bytes(public)
    with pytest.raises(UnusableKey):
        TrustedKeys.from_folder(tmp_path)
    with pytest.raises(UnusableKey):
        TrustedKeys.from_folder(tmp_path / "nowhere")
    with pytest.raises(UnusableSigningKey):
        sign_files("x", SIGNED, private_key=other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UnusableSigningKey):
        sign_files("x", SIGNED, private_key=b"no key")
