"""Settings of the feature store (``CLAVE_FEATURES_<NAME>``)."""

from clave_common.settings import ServiceSettings
from pydantic import Field
from pydantic_settings import SettingsConfigDict


class Settings(ServiceSettings):
    """What the feature store needs beyond every service's settings.

    Attributes:
        upload_bytes_max: Largest table in one ingest.
        online_rows_max: Most entities in one online read.
        online_grace_days: Days beyond its time to live for which an expired online value is kept, so that reads can
            tell OUTSIDE_MAX_AGE from NOT_FOUND.
        future_tolerance_s: How far an event time may lie ahead of this machine's clock.
        quarantine_rows_max: Most quarantined rows kept of one batch; more are only counted.
        engine_threads: Threads of one DuckDB session.
        memory_limit_mb: Memory of one DuckDB session, in megabytes.
    """

    model_config = SettingsConfigDict(env_prefix="CLAVE_FEATURES_", extra="ignore")

    upload_bytes_max: int = Field(default=512 * 1024 * 1024, ge=1024)
    online_rows_max: int = Field(default=10_000, ge=1)
    online_grace_days: int = Field(default=90, ge=0)
    future_tolerance_s: float = Field(default=60.0, ge=0)
    quarantine_rows_max: int = Field(default=10_000, ge=0)
    engine_threads: int = Field(default=2, ge=1)
    memory_limit_mb: int = Field(default=512, ge=64)
