"""Gateway: what its API takes and gives, and a typed client."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from clave_contracts.client import ServiceClient
from clave_contracts.schema import Answer, Name, Request

API = "/api/gateway/v1"


class KeyCreate(Request):
    """An API key to make.

    Attributes:
        name: Names the principal that the key speaks for, and the key.
        role: Role to bind the principal to, when it is new.
        kind: What the principal is.
        scopes: Action patterns that narrow the role; ``["**"]`` narrows nothing.
        expires_in_s: Life in seconds; at most a year.
    """

    name: Name
    role: str
    kind: Literal["user", "app", "service_account"] = "app"
    namespaces: list[str] = Field(default_factory=lambda: ["*"])
    resources: list[str] = Field(default_factory=lambda: ["**"])
    scopes: list[str] = Field(default_factory=lambda: ["**"])
    expires_in_s: int = Field(default=90 * 86_400, ge=60, le=366 * 86_400)


class NewKey(Answer):
    """A key as it is shown once: nobody can show it again."""

    id: str
    key: str
    principal: str
    role: str
    expires_at: datetime


class Key(Answer):
    """A key without its secret."""

    id: str
    name: str
    principal: str
    tenant: str
    scopes: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class KeyPage(Answer):
    """A page of keys."""

    keys: list[Key]
    next_page_token: str = ""


class WhoAmI(Answer):
    """The caller as the gateway sees it."""

    subject: str
    tenant: str
    method: str
    roles: list[str]
    scopes: list[str]
    expires_at: datetime
    key_id: str | None = None


class AuditRecord(Answer):
    """One entry of the audit log with its place in the Merkle tree."""

    index: int
    entry: dict[str, Any]
    leaf_hash: str
    recorded_at: datetime


class AuditPage(Answer):
    """A page of audit records, newest first."""

    records: list[AuditRecord]
    next_page_token: str = ""


class AuditVerification(Answer):
    """What verifying the log found.

    Attributes:
        damage: None when all is well, else ``gap``, ``altered``, ``truncated``, ``forked``, or ``unsigned`` where
            signatures were asked for.
        first_bad: Index of the first damaged record.
    """

    ok: bool
    size: int
    root: str
    damage: Literal["gap", "altered", "truncated", "forked", "unsigned"] | None = None
    first_bad: int | None = None
    detail: str = ""


class GatewayClient(ServiceClient):
    """Calls the gateway."""

    async def create_key(self, request: KeyCreate) -> NewKey:
        """Make a key."""
        return await self.post(NewKey, f"{API}/keys", request)

    async def keys(self) -> KeyPage:
        """List keys."""
        return await self.get(KeyPage, f"{API}/keys")

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key; it stops working everywhere within two seconds."""
        await self.send("DELETE", f"{API}/keys/{key_id}")

    async def whoami(self) -> WhoAmI:
        """Ask who the caller is."""
        return await self.get(WhoAmI, f"{API}/whoami")

    async def audit(self, **filters: Any) -> AuditPage:
        """Search the audit log."""
        return await self.get(AuditPage, f"{API}/audit", **filters)

    async def verify_audit(self, *, signatures: bool = False) -> AuditVerification:
        """Recompute the whole log and compare it with its signed checkpoints.

        Args:
            signatures: Check the signature of each entry's own service as well.
        """
        return await self.post(AuditVerification, f"{API}/audit/verify{'?signatures=true' if signatures else ''}")
