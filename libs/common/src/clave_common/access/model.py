"""The nouns of access: caller, resource, decision. AuthZEN's information model (Authorization API 1.0)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SubjectType = Literal["user", "service_account", "app", "service"]
AuthMethod = Literal["api_key", "oidc", "session", "mtls", "internal_jwt"]

# Whose the installation is: the first administrator's, and that of all data that know no tenants.
INSTALLATION_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated principal and the credential it came with.

    Attributes:
        subject_id: ``<type>:<name>``, for example ``user:admin`` or ``service:trainer``.
        expires_at: Epoch seconds after which the credential is void.
        scopes: Action patterns that narrow what the principal's roles grant; ``("**",)`` narrows nothing.
        on_behalf_of: The principal that a service acts for, recorded in audit and lineage.
        sees: Which rows of the list that is asked for may be shown, as the policy's clauses; None where no list is.
    """

    subject_id: str
    subject_type: SubjectType
    tenant: str
    method: AuthMethod
    expires_at: float
    groups: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ("**",)
    amr: tuple[str, ...] = ()
    key_id: str | None = None
    source_ip: str | None = None
    on_behalf_of: str | None = None
    sees: tuple[Mapping[str, Any], ...] | None = field(default=None, compare=False)

    @property
    def acting_for(self) -> str:
        """The principal whose will this is."""
        return self.on_behalf_of or self.subject_id


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action touches.

    Attributes:
        type: Noun of the resource, for example ``model_version``.
        id: Canonical path, for example ``models/churn/versions/3``.
        properties: What the policy may ask about: tenant, namespace, status, contributors, approvals, card, features...
    """

    type: str
    id: str
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A limit that the policy attaches to a decision."""

    per_minute: float
    burst: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the policy.

    Attributes:
        allow: True only where the engine said exactly true.
        reasons: Sorted names of everything that speaks against it.
        mask: Names of features to withhold.
        cache_ttl_s: Seconds for which an ALLOW of a read-only action may be reused.
    """

    allow: bool
    reasons: tuple[str, ...]
    policy_version: str
    decision_id: str
    engine: str
    rate_limit: RateLimit | None = None
    mask: tuple[str, ...] = ()
    audit: Literal["full", "sampled"] = "full"
    cache_ttl_s: float = 0.0
