"""Settings that every service has; read once, in its composition root.

A service's own class derives from `ServiceSettings` with ``env_prefix="CLAVE_<SERVICE>_"``.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class PeerSettings(BaseSettings):
    """Where the other services are, and what all services share (``CLAVE_GATEWAY_URL`` and so on).

    Attributes:
        refusals_per_minute: Requests that the policy may refuse to one credential each minute before it is held back;
            0 means no limit.
        refusals_burst: How many of them at once.
    """

    model_config = SettingsConfigDict(env_prefix="CLAVE_", extra="ignore")

    gateway_url: str = "http://127.0.0.1:47321"
    registry_url: str = "http://127.0.0.1:47322"
    features_url: str = "http://127.0.0.1:47323"
    inference_url: str = "http://127.0.0.1:47324"
    monitor_url: str = "http://127.0.0.1:47325"
    trainer_url: str = "http://127.0.0.1:47326"
    tls_dir: Path | None = None
    public_url: str | None = None
    opa_url: str | None = None
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    oidc_jwks_url: str | None = None
    oidc_subject_claim: str = "preferred_username"
    oidc_groups_claim: str = "groups"
    oidc_application_claim: str | None = None
    oidc_tenant_claim: str | None = None
    refusals_per_minute: float = Field(default=60.0, ge=0)
    refusals_burst: float = Field(default=60.0, ge=1)
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ServiceSettings(BaseSettings):
    """What each service needs to run.

    Attributes:
        http_host: Address to listen on; loopback unless a container network needs otherwise.
        http_port: TCP port of the HTTP API.
        database_url: ``postgresql://user:password@/clave?host=<socket dir>`` or the TCP form.
        redis_url: ``unix://user:password@/path.sock?db=0`` or ``redis://...``.
        data_dir: The service's own folder for caches and spools; nothing in it is the only copy of a truth.
        secrets_dir: Holds ``<service>.pem``, ``services.jwks.json`` and ``pepper``.
        blob_url: ``file:///folder`` or ``s3://bucket/prefix``.
    """

    model_config = SettingsConfigDict(extra="ignore")

    http_host: str = "127.0.0.1"
    http_port: int = Field(ge=1, le=65535)
    database_url: SecretStr
    database_connections_max: int = Field(default=5, ge=1, le=100)
    redis_url: SecretStr
    data_dir: Path
    secrets_dir: Path
    blob_url: str
    body_bytes_max: int = Field(default=8 * 1024 * 1024, ge=1024)
    shutdown_grace_s: float = Field(default=10.0, gt=0)
    peers: PeerSettings = Field(default_factory=PeerSettings)
