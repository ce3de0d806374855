"""The trainer's settings, read once by its composition roots."""

from clave_common.settings import ServiceSettings
from pydantic import Field
from pydantic_settings import SettingsConfigDict


class TrainerSettings(ServiceSettings):
    """What the trainer's API and its workers need (``CLAVE_TRAINER_<NAME>``).

    Attributes:
        lease_s: Seconds for which a worker holds a step without a sign of life; it renews at a third of it, and a
            dead worker's step starts again within this time and two seconds.
        worker_slots: Steps that one worker does at once.
        worker_classes: Resource classes that it takes, separated by commas.
        threads: OpenMP threads of one computing process; set it to the CPU quota, not to the machine's count.
        step_memory_bytes_max: Address space of a computing process; 0 = unlimited.
    """

    model_config = SettingsConfigDict(env_prefix="CLAVE_TRAINER_", extra="ignore")

    lease_s: float = Field(default=6.0, ge=1.0, le=600.0)
    worker_slots: int = Field(default=2, ge=1, le=64)
    worker_classes: str = "light,cpu"
    threads: int = Field(default=2, ge=1, le=256)
    step_memory_bytes_max: int = Field(default=0, ge=0)
    run_body_bytes_max: int = Field(default=1024 * 1024, ge=1024)
