"""Settings of the inference service, ``CLAVE_INFERENCE_<NAME>``."""

from clave_common.settings import ServiceSettings
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict


class Settings(ServiceSettings):
    """What can be set.

    Attributes:
        grpc_port: TCP port of the plain gRPC server; 0 = none.
        workers: Processes that share the port.
        replicas: Processes over all machines, by which limits are divided while Redis is away.
        rows_max: Rows in one request.
        explained_rows_max: Rows in one request for explanations.
        explained_rows_waiting_max: Rows that may wait for explanations in a process; beyond, 503.
        shadow_rows_waiting_max: Rows that may wait for shadow versions; beyond, they miss copies.
        access_log_every: One request in so many has a line in the access log; 0 = none.
        rows_per_run_max: Rows joined into one run of a model.
        queued_rows_max: Rows that may wait in a process; beyond, requests are refused with 503.
        key_rows_per_minute: Rows of one key over all models in a minute; 0 = no limit beside the model card's.
        model_rows_per_minute: Rows of one endpoint over all keys in a minute; 0 = no limit.
        tenant_rows_per_minute: Rows of one tenant's callers over all models in a minute; 0 = no limit.
        inline_us_max: Longest run, in microseconds, that may hold the event loop.
        timeout_s: Seconds after which a request that set no time-out is given up.
        poll_s: Seconds between looks at the registry's desired state.
        log_flush_s: Seconds that a prediction record waits for company.
        log_buffered_max: Prediction records in memory.
        spool_bytes_max: Bytes of the prediction log on disk while the stream does not take it.
        stream_entries_max: Entries of the stream that wait for a consumer; beyond, the spool takes over.
    """

    model_config = SettingsConfigDict(env_prefix="CLAVE_INFERENCE_", extra="ignore")

    database_url: SecretStr = SecretStr("")
    blob_url: str = ""
    grpc_port: int = Field(default=0, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=64)
    replicas: int = Field(default=1, ge=1)
    rows_max: int = Field(default=4096, ge=1)
    explained_rows_max: int = Field(default=1024, ge=1)
    explained_rows_waiting_max: int = Field(default=4096, ge=1)
    shadow_rows_waiting_max: int = Field(default=4096, ge=1)
    access_log_every: int = Field(default=1000, ge=0)
    rows_per_run_max: int = Field(default=128, ge=1)
    queued_rows_max: int = Field(default=16_384, ge=1)
    key_rows_per_minute: float = Field(default=0.0, ge=0)
    model_rows_per_minute: float = Field(default=0.0, ge=0)
    tenant_rows_per_minute: float = Field(default=0.0, ge=0)
    inline_us_max: float = Field(default=4_000.0, gt=0)
    timeout_s: float = Field(default=10.0, gt=0)
    poll_s: float = Field(default=1.0, gt=0)
    log_flush_s: float = Field(default=0.025, ge=0)
    log_buffered_max: int = Field(default=50_000, ge=1)
    spool_bytes_max: int = Field(default=512 * 1024 * 1024, ge=1024)
    stream_entries_max: int = Field(default=20_000, ge=1)
