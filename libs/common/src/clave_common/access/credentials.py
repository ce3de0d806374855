"""Checks what callers present, locally: API keys against the snapshot, service tokens by public key.

`Authorization: Bearer <api key>`, `Bearer <service token>`, or `Basic` with an API key as the password (MLflow's and
many other clients know nothing else). A wrong credential is one 401 whatever was wrong with it, in the same time
whether or not the key's id exists.
"""

import base64
import binascii
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from clave_common.access.api_keys import ApiKey, parse_api_key, same_mac
from clave_common.access.edge import EdgeProof
from clave_common.access.failed_attempts import FailedAttempts, place_of
from clave_common.access.model import Caller, SubjectType
from clave_common.access.oidc import OidcVerifier
from clave_common.access.ratelimit import Limit, RateLimiter
from clave_common.access.service_tokens import ServiceTokenVerifier
from clave_common.access.snapshot import KeyRecord, Snapshot, no_snapshot
from clave_common.access.verification import Presented
from clave_common.errors import ResourceExhausted, Unauthenticated

_CREDENTIAL_LENGTH_MAX = 8192
_CALLERS_MAX = 10_000
_REMEMBERED_CHARACTERS_MAX = 512
_NOBODY = KeyRecord("", "0" * 64, "", "", (), (), 0.0)
_SUBJECT_TYPES: dict[str, SubjectType] = {
    "user": "user",
    "service_account": "service_account",
    "app": "app",
    "service": "service",
}


class LocalVerifier:
    """The `CredentialVerifier` of every service."""

    def __init__(
        self,
        *,
        pepper: bytes,
        snapshot: Callable[[], Snapshot | None],
        service_tokens: ServiceTokenVerifier,
        failed: FailedAttempts | None = None,
        oidc: OidcVerifier | None = None,
        refresh: Callable[[], Awaitable[None]] | None = None,
        edge: EdgeProof | None = None,
        failures: RateLimiter | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._pepper = pepper
        self._snapshot = snapshot
        self._service_tokens = service_tokens
        self._failed = failed or FailedAttempts()
        self._oidc = oidc
        self._refresh = refresh
        self._edge = edge or EdgeProof(None)
        self._failures = failures
        self._callers: dict[Presented, Caller] = {}
        self._callers_of: Snapshot | None = None
        self._now = now

    async def verify(self, presented: Presented) -> Caller | None:
        """Return the caller, or None when nothing was presented.

        Raises:
            Unauthenticated: The credential is wrong, expired or revoked.
            ResourceExhausted: Too many failed attempts from this address.
            Unavailable: There is no copy of the keys yet.
        """
        if presented.authorization is None:
            return None
        known = self._recognised(presented)
        if known is not None:
            return known
        try:
            caller = await self._verified(
                replace(presented, source_ip=self._edge.address(presented)), credential_of(presented.authorization)
            )
        except Unauthenticated:
            await self._note_failure(place_of(self._edge.address(presented) or presented.source_ip or "unknown"))
            raise
        snapshot = self._snapshot()
        if caller.method == "api_key" and snapshot is not None:
            self._remember(presented, snapshot, caller)
        return caller

    def _recognised(self, presented: Presented) -> Caller | None:
        """Give the caller of a key that was checked against this very snapshot, from the same place."""
        if self._callers_of is not self._snapshot():
            return None
        caller = self._callers.get(presented)
        return caller if caller is None or caller.expires_at > self._now() else None

    def _remember(self, presented: Presented, snapshot: Snapshot, caller: Caller) -> None:
        if self._callers_of is not snapshot or len(self._callers) >= _CALLERS_MAX:
            self._callers.clear()
            self._callers_of = snapshot
        if _is_plain(presented):
            self._callers[presented] = caller

    async def _note_failure(self, address: str) -> None:
        """Count a failure here, then in all processes together; a guesser who is refused here asks Redis nothing."""
        wait_s = self._failed.note(address)
        if wait_s == 0 and self._failures is not None:
            limit = Limit(f"failed:{address}", self._failed.per_second, self._failed.burst)
            try:
                await self._failures.take([limit])
            except ResourceExhausted as refusal:
                wait_s = refusal.retry_after_s or 1.0
        if wait_s > 0:
            raise ResourceExhausted(
                "Too many failed attempts to authenticate from this address.",
                code="too_many_failed_attempts",
                retry_after_s=wait_s,
            ) from None

    async def _verified(self, presented: Presented, credential: str) -> Caller:
        if credential.startswith("clave_"):
            return await self._by_api_key(credential, presented)
        if credential.count(".") != 2:  # noqa: PLR2004 - a JWS in compact form has three parts
            raise refused()
        if self._oidc is not None and self._oidc.issued(credential):
            return await self._oidc.verify(credential, source_ip=presented.source_ip)
        return self._service_tokens.verify(
            credential, on_behalf_of=presented.on_behalf_of, source_ip=presented.source_ip
        )

    async def _by_api_key(self, text: str, presented: Presented) -> Caller:
        key = parse_api_key(text)
        if key is None:
            raise refused()
        record = self._record(key)
        if record is None and self._refresh is not None:
            # A key made a moment ago works at once; a wrong secret waits exactly as long as an unknown id does.
            await self._refresh()
            record = self._record(key)
        if record is None:
            raise no_snapshot() if self._snapshot() is None else refused()
        subject_type = _SUBJECT_TYPES.get(record.subject_id.partition(":")[0])
        if subject_type is None:
            raise refused()
        return Caller(
            subject_id=record.subject_id,
            subject_type=subject_type,
            tenant=record.tenant,
            method="api_key",
            expires_at=record.expires_at,
            groups=record.groups,
            scopes=record.scopes,
            key_id=record.id,
            source_ip=presented.source_ip,
        )

    def _record(self, key: ApiKey) -> KeyRecord | None:
        """Find what a key belongs to; None without a snapshot, for an unknown id, a wrong secret, an expired key."""
        snapshot = self._snapshot()
        if snapshot is None:
            return None
        record = snapshot.keys.get(key.id, _NOBODY)
        is_holder = same_mac(key.mac(self._pepper), record.mac)
        return record if is_holder and record is not _NOBODY and record.expires_at > self._now() else None


def _is_plain(presented: Presented) -> bool:
    """Tell whether what was presented is small: nobody fills the memory with headers of their own invention."""
    said = (presented.authorization, presented.claimed_ip, presented.edge_proof)
    length = sum(len(part) for part in said if part is not None)
    is_usual = presented.break_glass is None and presented.on_behalf_of is None
    return is_usual and length <= _REMEMBERED_CHARACTERS_MAX


def credential_of(authorization: str) -> str:
    """Take the credential out of an ``Authorization`` value.

    Raises:
        Unauthenticated: Another scheme, an overlong value, or Basic that is not base64 of ``user:password``.
    """
    scheme, _, value = authorization.strip().partition(" ")
    value = value.strip()
    if not value or len(value) > _CREDENTIAL_LENGTH_MAX:
        raise refused()
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() != "basic":
        raise refused()
    try:
        decoded = base64.b64decode(value, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise refused() from error
    return decoded.partition(":")[2]


def refused() -> Unauthenticated:
    """Build the one refusal for any wrong credential."""
    return Unauthenticated(
        "The credential is wrong, expired or revoked. Sign in with one that works: 'clave login URL'. Whoever may make "
        "keys gives you one with 'clave keys create', and 'clave keys list' shows which are active.",
        code="invalid_credential",
    )
