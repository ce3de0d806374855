"""Callers are who their credential proves them to be, and every wrong credential is refused alike."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from clave_common.access.api_keys import ApiKey, new_api_key, parse_api_key
from clave_common.access.credentials import LocalVerifier
from clave_common.access.failed_attempts import FailedAttempts
from clave_common.access.oidc import OidcSettings, OidcVerifier
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.service_tokens import ServiceTokenMinter, ServiceTokenVerifier
from clave_common.access.snapshot import KeyRecord, Snapshot
from clave_common.access.verification import Presented
from clave_common.errors import ClaveError, ResourceExhausted, Unauthenticated, Unavailable
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

PEPPER = b"pepper"
KEY = new_api_key()


def record(key: ApiKey = KEY, **changes: Any) -> KeyRecord:
    fields = {
        "id": key.id,
        "mac": key.mac(PEPPER),
        "subject_id": "app:shop",
        "tenant": "acme",
        "groups": (),
        "scopes": ("inference:predict",),
        "expires_at": time.time() + 60,
    }
    return KeyRecord(**{**fields, **changes})


def snapshot(*records: KeyRecord) -> Snapshot:
    keys = MappingProxyType({entry.id: entry for entry in records})
    return Snapshot(1, time.time(), keys, PolicyBundle({}, {}))


def verifier(secrets: Path, held: Callable[[], Snapshot | None], **more: Any) -> LocalVerifier:
    tokens = ServiceTokenVerifier.from_file("registry", secrets / "services.jwks.json")
    return LocalVerifier(pepper=PEPPER, snapshot=held, service_tokens=tokens, **more)


def bearer(text: str, **more: Any) -> Presented:
    return Presented(authorization=f"Bearer {text}", source_ip="10.0.0.1", **more)


def test_a_key_reads_back_and_a_typing_error_is_seen_without_a_look_up() -> None:
    assert parse_api_key(KEY.text) == KEY
    swapped = KEY.text.replace(KEY.secret[:2], KEY.secret[1] + KEY.secret[0]) if KEY.secret[0] != KEY.secret[1] else ""
    for wrong in (swapped, KEY.text[:-1], KEY.text + "\n", KEY.text.upper(), "clave_live_x_y_z", ""):
        assert parse_api_key(wrong) is None
    assert KEY.secret not in repr(KEY)


async def test_a_good_key_names_its_principal_and_what_narrows_it(secrets_dir: Path) -> None:
    caller = await verifier(secrets_dir, lambda: snapshot(record())).verify(bearer(KEY.text))
    assert caller is not None
    assert (caller.subject_id, caller.subject_type, caller.tenant, caller.method) == (
        "app:shop", "app", "acme", "api_key",
    )  # fmt: skip
    assert (caller.scopes, caller.key_id, caller.on_behalf_of) == (("inference:predict",), KEY.id, None)


async def test_basic_takes_the_key_as_password(secrets_dir: Path) -> None:
    value = base64.b64encode(f"mlflow:{KEY.text}".encode()).decode()
    caller = await verifier(secrets_dir, lambda: snapshot(record())).verify(Presented(f"basic {value}", None))
    assert caller is not None
    assert caller.subject_id == "app:shop"


async def test_every_wrong_key_is_refused_in_the_same_words(secrets_dir: Path) -> None:
    other = ApiKey(KEY.environment, KEY.id, new_api_key().secret)
    said = set()
    for held, text in [
        (snapshot(), KEY.text),
        (snapshot(record()), other.text),
        (snapshot(record(expires_at=time.time() - 1)), KEY.text),
        (snapshot(record(subject_id="root:x")), KEY.text),
        (snapshot(record(mac="0" * 64)), KEY.text),
        (snapshot(record()), "clave_live_nonsense"),
    ]:
        with pytest.raises(Unauthenticated) as refusal:
            await verifier(secrets_dir, lambda held=held: held).verify(bearer(text))
        said.add((refusal.value.code, refusal.value.detail))
    assert len(said) == 1


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", "Basic", "Basic %%%", "Digest x", f"Bearer {'a' * 9000}", "Bearer a.b", "Basic 4pyT"],
)
async def test_odd_headers_are_refused(secrets_dir: Path, value: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier(secrets_dir, lambda: snapshot(record())).verify(Presented(value, None))


async def test_nothing_presented_is_nobody(secrets_dir: Path) -> None:
    assert await verifier(secrets_dir, snapshot).verify(Presented(None, None)) is None


async def test_without_a_snapshot_keys_cannot_be_judged(secrets_dir: Path) -> None:
    with pytest.raises(Unavailable):
        await verifier(secrets_dir, lambda: None).verify(bearer(KEY.text))


async def test_a_key_made_a_moment_ago_is_fetched(secrets_dir: Path) -> None:
    held = [snapshot()]

    async def refresh() -> None:
        held[0] = snapshot(record())

    caller = await verifier(secrets_dir, lambda: held[0], refresh=refresh).verify(bearer(KEY.text))
    assert caller is not None


async def test_guessing_slows_down_but_never_locks_a_good_key_out(secrets_dir: Path) -> None:
    made = verifier(secrets_dir, lambda: snapshot(record()), failed=FailedAttempts(burst=5, per_second=0.001))
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await made.verify(bearer("clave_live_nonsense"))
    with pytest.raises(ResourceExhausted) as refusal:
        await made.verify(bearer("clave_live_nonsense"))
    assert refusal.value.retry_after_s is not None
    assert await made.verify(bearer(KEY.text)) is not None


# ---- service tokens


def mint(secrets: Path, service: str = "trainer") -> ServiceTokenMinter:
    return ServiceTokenMinter.from_file(service, secrets / f"{service}.pem")


async def test_a_service_proves_itself_and_may_say_for_whom_it_acts(secrets_dir: Path) -> None:
    token = mint(secrets_dir).token("registry")
    caller = await verifier(secrets_dir, lambda: None).verify(bearer(token, on_behalf_of="user:anna"))
    assert caller is not None
    assert (caller.subject_id, caller.subject_type, caller.method) == ("service:trainer", "service", "internal_jwt")
    assert caller.acting_for == "user:anna"


async def test_a_user_cannot_speak_for_another(secrets_dir: Path) -> None:
    presented = bearer(KEY.text, on_behalf_of="user:admin")
    caller = await verifier(secrets_dir, lambda: snapshot(record())).verify(presented)
    assert caller is not None
    assert caller.acting_for == "app:shop"


CLAIMS: dict[str, Any] = {"iss": "clave", "sub": "service:trainer", "aud": "registry"}


def forged(secrets: Path, name: str) -> str:
    now = int(time.time())
    own = OKPKey.import_key((secrets / "trainer.pem").read_bytes())
    claims = {**CLAIMS, "iat": now, "nbf": now, "exp": now + 60}
    public = json.loads((secrets / "services.jwks.json").read_text())["keys"]
    header: dict[str, Any] = {"alg": "Ed25519", "kid": "trainer"}

    def made(key: Any, head: dict[str, Any] | None = None, **changes: Any) -> str:
        head = head or header
        return jwt.encode(head, {**claims, **changes}, key, algorithms=[head["alg"]])

    def unsigned(alg: str) -> str:
        parts = ({"alg": alg, "kid": "trainer"}, claims)
        return (
            ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."
        )

    stranger = OKPKey.generate_key("Ed25519")
    trainer_x = next(key["x"] for key in public if key["kid"] == "trainer")
    return {
        "another_audience": lambda: made(own, aud="gateway"),
        "expired": lambda: made(own, exp=now - 60),
        "not_yet": lambda: made(own, nbf=now + 600),
        "eternal": lambda: made(own, exp=now + 86_400),
        "another_issuer": lambda: made(own, iss="other"),
        "another_subject": lambda: made(own, sub="service:registry"),
        "a_user": lambda: made(own, sub="user:admin"),
        "stranger": lambda: made(stranger),
        "none": lambda: unsigned("none"),
        "none_in_disguise": lambda: unsigned("nOnE"),
        "hmac_with_the_public_key": lambda: made(
            OctKey.import_key(base64.urlsafe_b64decode(trainer_x + "=")), {"alg": "HS256", "kid": "trainer"}
        ),
        "another_curve": lambda: made(ECKey.generate_key("P-256"), {"alg": "ES256", "kid": "trainer"}),
        "key_path": lambda: made(own, {"alg": "Ed25519", "kid": "../../etc/passwd"}),
        "no_audience": lambda: made(own, aud=None),
    }[name]()


@pytest.mark.parametrize(
    "name",
    [
        "another_audience", "expired", "not_yet", "eternal", "another_issuer", "another_subject", "a_user", "stranger",
        "none", "none_in_disguise", "hmac_with_the_public_key", "another_curve", "key_path", "no_audience",
    ],
)  # fmt: skip
async def test_a_forged_service_token_is_refused(secrets_dir: Path, name: str) -> None:
    with pytest.raises(ClaveError) as refusal:
        await verifier(secrets_dir, lambda: None).verify(bearer(forged(secrets_dir, name)))
    assert isinstance(refusal.value, Unauthenticated), name


# ---- OpenID Connect

ISSUER = RSAKey.generate_key(2048, {"kid": "r1", "alg": "RS256", "use": "sig"})
OIDC = OidcSettings(issuer="https://id.example", audience="clave", jwks_url="https://id.example/keys")


async def issuer_keys(url: str) -> bytes:
    assert url == OIDC.jwks_url
    return json.dumps(KeySet([ISSUER]).as_dict(private=False)).encode()


def signed_in(key: Any = ISSUER, head: dict[str, Any] | None = None, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": OIDC.issuer, "aud": OIDC.audience, "sub": "1", "preferred_username": "anna", "exp": now + 60,
        "groups": ["acme-ds"], "amr": ["pwd", "mfa"],
    }  # fmt: skip
    head = head or {"alg": "RS256", "kid": "r1"}
    return jwt.encode(head, {**claims, **changes}, key, algorithms=[head["alg"]])


async def test_a_person_signs_in_with_a_token_of_the_trusted_issuer(secrets_dir: Path) -> None:
    made = verifier(secrets_dir, snapshot, oidc=OidcVerifier(OIDC, fetch=issuer_keys))
    caller = await made.verify(bearer(signed_in()))
    assert caller is not None
    assert (caller.subject_id, caller.method, caller.groups, caller.amr) == (
        "user:anna", "oidc", ("acme-ds",), ("pwd", "mfa"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "token",
    [
        signed_in(aud="other"),
        signed_in(exp=1),
        signed_in(RSAKey.generate_key(2048)),
        signed_in(preferred_username=["user:admin"]),
        signed_in(OctKey.import_key(str(ISSUER.as_dict(private=False)["n"]).encode()), {"alg": "HS256", "kid": "r1"}),
        signed_in(RSAKey.generate_key(2048), {"alg": "RS256", "kid": "r1", "jku": "https://evil.example/keys"}),
    ],
)
async def test_another_token_of_that_issuer_is_refused(secrets_dir: Path, token: str) -> None:
    made = verifier(secrets_dir, snapshot, oidc=OidcVerifier(OIDC, fetch=issuer_keys))
    with pytest.raises(Unauthenticated):
        await made.verify(bearer(token))
