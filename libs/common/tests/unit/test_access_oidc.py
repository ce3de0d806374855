"""Tokens of an identity provider: whom they name, and how often its keys are asked for."""

import asyncio
import json
import time
from typing import Any

import pytest
from clave_common.access import oidc
from clave_common.access.oidc import OidcSettings, OidcVerifier
from clave_common.errors import Unauthenticated
from joserfc import jwt
from joserfc.jwk import OKPKey


class Provider:
    """Signs tokens and counts who asks for its keys."""

    def __init__(self, **settings: Any) -> None:
        self.key = OKPKey.generate_key("Ed25519", {"kid": "one"})
        self.fetches = 0
        self.verifier = OidcVerifier(OidcSettings("issuer", "clave", "http://keys", **settings), fetch=self.fetch)

    async def fetch(self, _url: str) -> bytes:
        self.fetches += 1
        await asyncio.sleep(0)
        return json.dumps({"keys": [self.key.as_dict(private=False)]}).encode()

    def token(self, **claims: Any) -> str:
        named = {"iss": "issuer", "aud": "clave", "sub": "42", "exp": int(time.time()) + 300, **claims}
        return jwt.encode({"alg": "Ed25519", "kid": "one"}, named, self.key, algorithms=["Ed25519"])

    async def subject(self, **claims: Any) -> str:
        return (await self.verifier.verify(self.token(**claims), source_ip=None)).subject_id


async def test_a_person_is_named_by_one_claim_alone() -> None:
    provider = Provider()
    assert await provider.subject(preferred_username="ana") == "user:ana"
    for name in (None, "", " ", "a b", "a\nb", "a\x1b[1m", 7, ["ana"], "x" * 201):
        with pytest.raises(Unauthenticated):
            await provider.subject(preferred_username=name)
    with pytest.raises(Unauthenticated):
        await provider.subject()


async def test_an_address_names_somebody_once_the_provider_has_verified_it() -> None:
    provider = Provider(subject_claim="email")
    assert await provider.subject(email="ana@acme.example", email_verified=True) == "user:ana@acme.example"
    for verified in ({}, {"email_verified": False}, {"email_verified": "true"}):
        with pytest.raises(Unauthenticated):
            await provider.subject(email="ana@acme.example", **verified)


@pytest.mark.parametrize(
    ("setting", "claims", "name"),
    [
        (None, {"gty": "client-credentials"}, "user:ana"),
        ("gty=client-credentials", {"gty": "client-credentials"}, "app:42"),
        ("gty=client-credentials", {"gty": "password"}, "user:ana"),
        ("gty=client-credentials", {"gty": ["client-credentials"]}, "user:ana"),
        ("gty=client-credentials", {}, "user:ana"),
        ("client_id", {"client_id": "shop"}, "app:42"),
        ("client_id", {}, "user:ana"),
        ("", {"": ""}, "user:ana"),
    ],
)
async def test_an_application_is_told_from_a_person_by_the_claim_that_is_named(
    setting: str | None, claims: dict[str, Any], name: str
) -> None:
    provider = Provider(application_claim=setting)
    token = provider.token(preferred_username="ana", amr=["mfa"], **claims)
    caller = await provider.verifier.verify(token, source_ip=None)
    assert (caller.subject_id, caller.subject_type) == (name, name.partition(":")[0])
    assert caller.amr == (() if name.startswith("app:") else ("mfa",))


async def test_an_application_without_a_usable_name_is_refused() -> None:
    provider = Provider(application_claim="client_id")
    for sub in ("", "a b", 7, "x" * 201):
        with pytest.raises(Unauthenticated):
            await provider.subject(client_id="shop", preferred_username="ana", sub=sub)


@pytest.mark.parametrize("tenant", [None, "", "*", 1])
async def test_a_token_without_a_tenant_of_its_own_is_refused(tenant: Any) -> None:
    provider = Provider(tenant_claim="org")
    with pytest.raises(Unauthenticated):
        await provider.subject(preferred_username="ana", org=tenant)


async def test_many_tokens_at_once_ask_for_the_keys_once(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider()
    await asyncio.gather(*(provider.subject(preferred_username=f"user{number}") for number in range(20)))
    assert provider.fetches == 1
    clock = time.monotonic() + 31
    monkeypatch.setattr(oidc.time, "monotonic", lambda: clock)
    bad = provider.token(preferred_username="ana")[:-8] + "AAAAAAAA"
    answers = await asyncio.gather(
        *(provider.verifier.verify(bad, source_ip=None) for _ in range(20)), return_exceptions=True
    )
    assert all(isinstance(answer, Unauthenticated) for answer in answers)
    assert provider.fetches == 2


async def test_a_known_token_ends_with_the_key_that_signed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider()
    token = provider.token(preferred_username="ana")
    assert (await provider.verifier.verify(token, source_ip=None)).subject_id == "user:ana"
    provider.key = OKPKey.generate_key("Ed25519", {"kid": "one"})
    clock = time.monotonic() + 601
    monkeypatch.setattr(oidc.time, "monotonic", lambda: clock)
    with pytest.raises(Unauthenticated):
        await provider.verifier.verify(token, source_ip=None)
