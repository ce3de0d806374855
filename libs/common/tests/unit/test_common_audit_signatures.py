"""An audit entry counts when the service that it names signed it, and no change of it goes unseen."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import rfc8785
from clave_common.audit_signatures import AuditSigner, AuditVerifier, EntryRefused
from clave_common.canonical_json import CanonicalizationError, canonical_json
from clave_contracts.events import AuditEntry
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

KEYS = {service: Ed25519PrivateKey.generate() for service in ("registry", "monitor")}
SIGNERS = {service: AuditSigner(service, key) for service, key in KEYS.items()}
VERIFIER = AuditVerifier({service: [key.public_key()] for service, key in KEYS.items()})
ENTRY = AuditEntry(
    service="registry",
    actor="user:anna",
    action="x:y.z",
    resource="models/m",
    details={"share": 0.1, "größe": [1, None]},
)
BODY = ENTRY.model_dump_json().encode()


def signed() -> dict[str, Any]:
    return dict(orjson.loads(SIGNERS["registry"].signed(BODY)))


def refusal_of(fields: Any) -> str:
    with pytest.raises(EntryRefused) as refused:
        VERIFIER.checked(fields if isinstance(fields, bytes) else orjson.dumps(fields))
    return str(refused.value)


def test_a_signed_entry_keeps_every_word_and_may_be_written_in_any_order() -> None:
    checked = VERIFIER.checked(SIGNERS["registry"].signed(BODY))
    assert AuditEntry.model_validate(checked.fields) == ENTRY
    assert checked.canonical == rfc8785.dumps(signed())
    shuffled = json.dumps(dict(reversed(signed().items())), indent=2).encode()
    assert VERIFIER.checked(shuffled).canonical == checked.canonical


def other_signature(fields: dict[str, Any]) -> dict[str, Any]:
    made = dict(orjson.loads(SIGNERS["monitor"].signed(orjson.dumps({**orjson.loads(BODY), "service": "monitor"}))))
    return {**fields, "signature": made["signature"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: {**fields, "actor": "user:bert"}, "signature_wrong"),
        (lambda fields: {**fields, "id": "aud_new"}, "signature_wrong"),
        (lambda fields: {**fields, "more": 1}, "signature_wrong"),
        (lambda fields: {**fields, "service": "monitor"}, "signed_by_another"),
        (lambda fields: {**fields, "service": ["registry"]}, "signed_by_another"),
        (other_signature, "signed_by_another"),
        (lambda fields: {**fields, "signature": {**fields["signature"], "kid": "monitor"}}, "signed_by_another"),
        (
            lambda fields: {**fields, "service": "edge", "signature": {**fields["signature"], "kid": "edge"}},
            "signature_wrong",
        ),
        (lambda fields: {**fields, "signature": None}, "unsigned"),
        (lambda _fields: orjson.loads(BODY), "unsigned"),
        (lambda fields: {**fields, "signature": "x"}, "signature_malformed"),
        (lambda fields: {**fields, "signature": {"kid": "registry", "value": "%"}}, "signature_malformed"),
        (lambda fields: {**fields, "signature": {"kid": "registry", "value": ""}}, "signature_wrong"),
        (lambda fields: {**fields, "signature": {"kid": [], "value": "AAAA"}}, "signed_by_another"),
        (lambda fields: {**fields, "service": {}, "signature": {"kid": {}, "value": ""}}, "signed_by_another"),
        (lambda _fields: [], "malformed"),
        (lambda _fields: b"[" * 50_000, "malformed"),
        (lambda _fields: b'{"a":' * 900 + b"1" + b"}" * 900, "malformed"),
        (lambda _fields: b'{"a": 1152921504606846976}', "malformed"),
        (lambda _fields: b'"' + b"x" * 2_000_000 + b'"', "malformed"),
        (lambda _fields: b"\xff", "malformed"),
    ],
)
def test_what_its_service_did_not_sign_is_refused(change: Callable[[dict[str, Any]], Any], reason: str) -> None:
    assert refusal_of(change(signed())) == reason


def test_a_signature_over_the_bare_text_is_none() -> None:
    """A key signs tokens and notes too; only what begins as an entry's text counts."""
    fields = orjson.loads(BODY)
    bare = base64.b64encode(KEYS["registry"].sign(canonical_json(fields))).decode()
    assert refusal_of({**fields, "signature": {"kid": "registry", "value": bare}}) == "signature_wrong"


def test_nobody_signs_for_another_or_twice() -> None:
    assert SIGNERS["monitor"].signed(BODY) == BODY
    once = SIGNERS["registry"].signed(BODY)
    assert SIGNERS["registry"].signed(once) == once
    for odd in (b"", b"null", b"\xff", b"[" * 50_000):
        assert SIGNERS["registry"].signed(odd) == odd


def test_numbers_that_canonical_json_cannot_hold_are_signed_as_their_digits() -> None:
    entry = ENTRY.model_copy(update={"details": {"seed": 2**60, "deep": [{"n": -(2**63)}], "flag": True}})
    checked = VERIFIER.checked(SIGNERS["registry"].signed(entry.model_dump_json().encode()))
    assert checked.fields["details"] == {"seed": str(2**60), "deep": [{"n": str(-(2**63))}], "flag": True}


def test_keys_are_read_from_the_files_and_a_replaced_one_counts_where_it_is_asked_for(
    secrets_dir: Path, tmp_path: Path
) -> None:
    old = AuditSigner.from_file("registry", secrets_dir / "registry.pem").signed(BODY)
    current = secrets_dir / "services.jwks.json"
    retired = tmp_path / "retired.json"
    assert AuditVerifier.from_files(current, retired).checked(old)
    document = json.loads(current.read_text())
    retired.write_text(json.dumps({"keys": [key for key in document["keys"] if key["kid"] == "registry"]}))
    current.write_text(json.dumps({"keys": [key for key in document["keys"] if key["kid"] != "registry"]}))
    with pytest.raises(EntryRefused):
        AuditVerifier.from_files(current).checked(old)
    both = AuditVerifier.from_files(current, retired)
    assert both.checked(old)
    assert both.signed_with(orjson.loads(old)) is not None
    assert both.signed_with(orjson.loads(BODY)) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_canonical_json_is_the_reference_implementations(value: Any) -> None:
    try:
        expected = rfc8785.dumps(value)
    except (CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(CanonicalizationError):
            canonical_json(value)
    else:
        assert canonical_json(value) == expected
