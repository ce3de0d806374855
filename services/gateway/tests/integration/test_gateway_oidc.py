"""People who sign in at an identity provider: a real issuer on loopback, a real gateway, tokens good and bad."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from clave_common.settings import PeerSettings
from clave_testing.inner_gateway import InnerGateway, inner_gateway
from clave_testing.issuer import AUDIENCE, Issuer, serving_issuer
from clave_testing.patience import PATIENCE_S
from joserfc.jwk import RSAKey

pytestmark = pytest.mark.integration
API = "/api/gateway/v1"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with serving_issuer() as made:
        yield made


@pytest.fixture
async def running(tmp_path: Path, issuer: Issuer) -> AsyncIterator[InnerGateway]:
    peers = PeerSettings(
        oidc_issuer=issuer.url,
        oidc_audience=AUDIENCE,
        oidc_jwks_url=f"{issuer.url}/jwks",
        refusals_per_minute=0,  # people wait for their rights by being refused
    )
    async with inner_gateway(tmp_path, peers=peers) as served:
        yield served


@pytest.fixture
def gateway(running: InnerGateway) -> httpx.AsyncClient:
    return running.http


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_signed_in_person_holds_the_roles_of_its_groups(
    running: InnerGateway, gateway: httpx.AsyncClient, issuer: Issuer
) -> None:
    assert (await gateway.get(f"{API}/whoami", headers=bearer(issuer.token()))).status_code == 403
    body = {"subject": "group:engineers", "role": "ml-engineer"}
    assert (await gateway.post(f"{API}/bindings", json=body, headers=running.admin)).status_code == 201
    async with asyncio.timeout(PATIENCE_S):
        while (  # noqa: ASYNC110 - it is polled
            answer := await gateway.get(f"{API}/whoami", headers=bearer(issuer.token()))
        ).status_code != 200:
            await asyncio.sleep(0.05)
    who = answer.json()
    assert (who["subject"], who["method"], who["roles"]) == ("user:ana", "oidc", ["ml-engineer"])
    assert issuer.fetches == 1, "the key set is kept"


async def test_every_bad_token_is_refused(gateway: httpx.AsyncClient, issuer: Issuer) -> None:
    public = issuer.keys[0].as_pem(private=False)
    stranger = RSAKey.generate_key(2048, {"kid": "one"})
    now = int(time.time())
    header, claims, signature = issuer.token().split(".")

    def text(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    def part(value: dict[str, Any]) -> str:
        return text(json.dumps(value).encode())

    confused = f"{part({'alg': 'HS256', 'kid': 'one'})}.{claims}"
    bad = {
        "another audience": issuer.token(aud="billing"),
        "no audience": issuer.token(aud=None),
        "expired": issuer.token(exp=now - 600),
        "not yet valid": issuer.token(nbf=now + 600),
        "a stranger's signature": issuer.token(key=stranger),
        "another issuer": issuer.token(iss="https://evil.example"),
        "the public key as a shared secret": f"{confused}.{text(hmac.digest(public, confused.encode(), 'sha256'))}",
        "no algorithm": f"{part({'alg': 'none'})}.{claims}.",
        "its own key": f"{part({'alg': 'RS256', 'jwk': stranger.as_dict(private=False)})}.{claims}.{signature}",
        "another key address": issuer.token(key=stranger, header={"jku": "https://evil.example", "kid": "two"}),
        "a platform's tenant": f"{header}.{part({'iss': issuer.url, 'aud': AUDIENCE, 'exp': now + 60})}.{signature}",
        "rubbish": "a.b.c",
    }
    for what, token in bad.items():
        answer = await gateway.get(f"{API}/whoami", headers=bearer(token))
        assert answer.status_code == 401, (what, answer.text)
    assert issuer.fetches == 1, "a bad token makes nobody fetch keys again"


async def test_whoever_signs_in_is_never_a_service_or_the_administrator_by_name(
    gateway: httpx.AsyncClient, issuer: Issuer
) -> None:
    answer = await gateway.get(f"{API}/snapshot", headers=bearer(issuer.token(preferred_username="service:trainer")))
    assert answer.status_code == 403
