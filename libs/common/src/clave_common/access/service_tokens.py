"""Tokens by which one service proves itself to another: Ed25519 JWTs for one audience, alive for a minute.

RFC 7519 with the algorithm name of RFC 9864. Each service holds its own private key, and all hold everybody's
public keys, so no service can speak as another.
"""

import json
import time
from collections import OrderedDict
from pathlib import Path
from uuid import uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey
from joserfc.jwt import JWTClaimsRegistry

from clave_common.access.model import Caller
from clave_common.errors import Unauthenticated

ALGORITHM = "Ed25519"
LIFE_S = 60
_RENEW_BEFORE_S = 15
_LEEWAY_S = 5
_TOKENS_MAX = 1_000
_ISSUER = "clave"
SYSTEM_TENANT = "*"


class ServiceTokenMinter:
    """Signs as one service; a token is reused until shortly before it expires."""

    def __init__(self, service: str, key: OKPKey) -> None:
        self._service = service
        self._key = key
        self._tokens: dict[str, tuple[float, str]] = {}

    @property
    def service(self) -> str:
        """Who signs."""
        return self._service

    @classmethod
    def from_file(cls, service: str, path: Path) -> "ServiceTokenMinter":
        """Read the service's private key (PEM)."""
        return cls(service, OKPKey.import_key(path.read_bytes()))

    def token(self, audience: str) -> str:
        """Return a token that one target accepts for at least 15 s."""
        now = time.time()
        renew_at, token = self._tokens.get(audience, (0.0, ""))
        if now < renew_at:
            return token
        claims = {
            "iss": _ISSUER,
            "sub": f"service:{self._service}",
            "aud": audience,
            "iat": int(now),
            "nbf": int(now) - _LEEWAY_S,
            "exp": int(now) + LIFE_S,
            "jti": uuid4().hex,
        }
        token = jwt.encode({"alg": ALGORITHM, "kid": self._service}, claims, self._key, algorithms=[ALGORITHM])
        self._tokens[audience] = (now + LIFE_S - _RENEW_BEFORE_S, token)
        return token


class ServiceTokenVerifier:
    """Checks the tokens that other services present here."""

    def __init__(self, service: str, keys: KeySet) -> None:
        self._service = service
        self._keys = keys
        self._known: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._registry = JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": _ISSUER},
            aud={"essential": True, "value": service},
            sub={"essential": True},
            exp={"essential": True},
            nbf={"essential": True},
        )

    @classmethod
    def from_file(cls, service: str, path: Path) -> "ServiceTokenVerifier":
        """Read everybody's public keys (``services.jwks.json``)."""
        return cls(service, public_keys(path))

    def verify(self, token: str, *, on_behalf_of: str | None = None, source_ip: str | None = None) -> Caller:
        """Return the calling service.

        Raises:
            Unauthenticated: Wrong signature, audience, issuer or time, or a subject that the key does not speak for.
        """
        expires_at, subject = self._known.get(token) or self._checked(token)
        if expires_at + _LEEWAY_S <= time.time():
            raise Unauthenticated("The service token has expired.", code="invalid_service_token")
        return Caller(
            subject_id=subject,
            subject_type="service",
            tenant=SYSTEM_TENANT,
            method="internal_jwt",
            expires_at=expires_at + _LEEWAY_S,
            source_ip=source_ip,
            on_behalf_of=on_behalf_of,
        )

    def _checked(self, token: str) -> tuple[float, str]:
        try:
            decoded = jwt.decode(token, self._keys, algorithms=[ALGORITHM])
            self._registry.validate(decoded.claims)
            expires_at = float(decoded.claims["exp"])
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise Unauthenticated("The service token is not valid here.", code="invalid_service_token") from error
        subject = str(decoded.claims["sub"])
        if subject != f"service:{decoded.header.get('kid')}":
            raise Unauthenticated("The service token speaks for another service.", code="invalid_service_token")
        if expires_at > time.time() + LIFE_S + _LEEWAY_S:
            raise Unauthenticated("The service token lives too long.", code="invalid_service_token")
        self._known[token] = (expires_at, subject)
        if len(self._known) > _TOKENS_MAX:
            self._known.popitem(last=False)
        return expires_at, subject


def public_keys(path: Path) -> KeySet:
    """Read everybody's public keys (``services.jwks.json``).

    A file that names the algorithm by its older name (EdDSA) is read as Ed25519, RFC 9864's name for the same.
    """
    document = json.loads(path.read_text())
    for key in document["keys"]:
        if key.get("crv") == "Ed25519":
            key["alg"] = ALGORITHM
    return KeySet.import_key_set(document)
