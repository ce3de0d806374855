"""People who sign in at an identity provider: OpenID Connect bearer tokens.

Issuer, audience and algorithms are pinned by settings; nothing in a token chooses how it is checked. The provider's
keys are fetched from the configured JWKS address only (never from ``jku`` or ``x5u``), by one request at a time however
many tokens wait for them, and cached. A person is named by one claim: a token without it names nobody, because another
claim of the same value may be another person's. A token that an application got for itself (OAuth 2.0, client
credentials) is told by a claim that providers write differently, so a setting names it; without one it is a person's.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry

from clave_common.access.model import Caller, SubjectType
from clave_common.errors import Unauthenticated, Unavailable

_LEEWAY_S = 30
_REFETCH_S_MIN = 30.0
_RETRY_S = 2.0
_TOKENS_MAX = 1_000
_SUBJECT_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """One trusted issuer.

    Attributes:
        algorithms: Signature algorithms accepted, asymmetric ones only.
        subject_claim: Claim that names the person; becomes ``user:<value>``.
        application_claim: What marks the token of an application: ``name=value``, or ``name`` where its presence
            does. Such a caller is ``app:<sub>``.
        tenant_claim: Claim that names the tenant; `tenant` applies where it is absent.
    """

    issuer: str
    audience: str
    jwks_url: str
    algorithms: tuple[str, ...] = ("RS256", "ES256", "Ed25519")
    subject_claim: str = "preferred_username"
    groups_claim: str = "groups"
    application_claim: str | None = None
    tenant_claim: str | None = None
    tenant: str = "default"
    keys_s: float = 600.0


FetchKeys = Callable[[str], Awaitable[bytes]]


async def fetch_keys(url: str) -> bytes:
    """Fetch a key set over HTTP, without redirects."""
    async with httpx.AsyncClient(timeout=2.0, follow_redirects=False) as client:
        response = await client.get(url)
        response.raise_for_status()
        return response.content


class OidcVerifier:
    """Checks tokens of one issuer."""

    def __init__(self, settings: OidcSettings, *, fetch: FetchKeys = fetch_keys) -> None:
        self._settings = settings
        self._fetch = fetch
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._asked_at = -_RETRY_S
        self._fetching = asyncio.Lock()
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._registry = JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": settings.issuer},
            aud={"essential": True, "value": settings.audience},
            sub={"essential": True},
            exp={"essential": True},
        )

    def issued(self, token: str) -> bool:
        """Tell whether a token claims to come from this issuer (a routing question, not a check)."""
        try:
            return bool(_unverified_claims(token).get("iss") == self._settings.issuer)
        except ValueError:
            return False

    async def verify(self, token: str, *, source_ip: str | None) -> Caller:
        """Return the person, or the application, behind a token.

        Raises:
            Unauthenticated: Wrong signature, issuer, audience or time, or no usable subject.
            Unavailable: The provider's keys cannot be fetched.
        """
        claims = await self._claims(token)
        is_application = self._is_application(claims)
        kind: SubjectType = "app" if is_application else "user"
        subject = self._subject(claims, "sub" if is_application else self._settings.subject_claim)
        tenant = claims.get(self._settings.tenant_claim) if self._settings.tenant_claim else self._settings.tenant
        if not isinstance(tenant, str) or tenant in {"", "*"}:
            raise Unauthenticated("The token names no usable tenant.", code="invalid_token")
        return Caller(
            subject_id=f"{kind}:{subject}",
            subject_type=kind,
            tenant=tenant,
            method="oidc",
            expires_at=float(claims["exp"]),
            groups=_texts(claims.get(self._settings.groups_claim)),
            amr=() if is_application else _texts(claims.get("amr")),
            source_ip=source_ip,
        )

    def _is_application(self, claims: dict[str, Any]) -> bool:
        name, has_value, value = (self._settings.application_claim or "").partition("=")
        return name != "" and name in claims and (not has_value or claims[name] == value)

    @staticmethod
    def _subject(claims: dict[str, Any], claim: str) -> str:
        """Name who it is; an address that the provider has not verified is anybody's."""
        subject = claims.get(claim)
        is_name = isinstance(subject, str) and 0 < len(subject) <= _SUBJECT_CHARACTERS_MAX
        if not is_name or not str(subject).isprintable() or " " in str(subject):
            raise Unauthenticated(f"The token's claim '{claim}' names nobody.", code="invalid_token")
        if claim == "email" and claims.get("email_verified") is not True:
            raise Unauthenticated("The provider has not verified the token's e-mail address.", code="invalid_token")
        return str(subject)

    async def _claims(self, token: str) -> dict[str, Any]:
        await self._key_set(fresh=False)  # forgets what it knows with keys that are taken back
        known = self._known.get(token)
        if known is not None and known["exp"] + _LEEWAY_S > time.time():
            return known
        for fresh in (False, True):
            keys = await self._key_set(fresh=fresh)
            try:
                decoded = jwt.decode(token, keys, algorithms=list(self._settings.algorithms))
                self._registry.validate(decoded.claims)
            except (JoseError, ValueError, KeyError, TypeError) as error:
                if fresh or time.monotonic() - self._fetched_at < _REFETCH_S_MIN:
                    raise Unauthenticated("The token is not valid here.", code="invalid_token") from error
            else:
                self._remember(token, decoded.claims)
                return decoded.claims
        raise AssertionError("unreachable")

    def _remember(self, token: str, claims: dict[str, Any]) -> None:
        """Keep a checked token: the next request with it costs no signature."""
        self._known[token] = claims
        if len(self._known) > _TOKENS_MAX:
            self._known.popitem(last=False)

    async def _key_set(self, *, fresh: bool) -> KeySet:
        if self._keys is not None and self._good_for(fresh=fresh):
            return self._keys
        async with self._fetching:
            if self._keys is not None and self._good_for(fresh=fresh):  # fetched while this one waited
                return self._keys
            return await self._fetched()

    def _good_for(self, *, fresh: bool) -> bool:
        return time.monotonic() - self._fetched_at < (_REFETCH_S_MIN if fresh else self._settings.keys_s)

    async def _fetched(self) -> KeySet:
        if self._keys is None and time.monotonic() - self._asked_at < _RETRY_S:
            raise no_keys()
        self._asked_at = time.monotonic()
        try:
            keys = KeySet.import_key_set(orjson.loads(await self._fetch(self._settings.jwks_url)))
        except (httpx.HTTPError, ValueError, KeyError) as error:
            if self._keys is None:
                raise no_keys() from error
        else:
            self._keys = keys
            self._known.clear()  # a key that was taken back must not live on in what it signed
        self._fetched_at = time.monotonic()
        return self._keys


def no_keys() -> Unavailable:
    """Build the refusal of a token that nobody can check now."""
    return Unavailable(
        "The identity provider's keys cannot be fetched.",
        code="identity_provider_unavailable",
        retry_after_s=_RETRY_S,
    )


def _texts(claim: object) -> tuple[str, ...]:
    return tuple(item for item in claim if isinstance(item, str)) if isinstance(claim, list) else ()


def _unverified_claims(token: str) -> dict[str, Any]:
    import base64  # noqa: PLC0415 - only for tokens that are no API keys

    part = token.split(".")[1]
    claims = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims if isinstance(claims, dict) else {}
