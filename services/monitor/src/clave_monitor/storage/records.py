"""What queries give back: plain typed rows."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Key:
    """One monitor: an endpoint's model version."""

    endpoint: str
    model: str
    model_version: int

    @property
    def subject(self) -> str:
        """Canonical path for events."""
        return f"endpoints/{self.endpoint}"

    def values(self) -> dict[str, Any]:
        """The key's columns."""
        return {"endpoint": self.endpoint, "model": self.model, "model_version": self.model_version}


@dataclass(frozen=True)
class MonitorRow:
    """A monitor's stored state."""

    key: Key
    reference_digest: str | None
    reference_problem: str | None
    state: dict[str, Any]
    report: dict[str, Any]
    windows: int
    rows: int
    labels: int
    first_at: datetime
    last_window_at: datetime | None


@dataclass(frozen=True)
class EndpointRow:
    """An endpoint as the monitor knows it."""

    name: str
    namespace: str | None
    live_model: str | None
    live_version: int | None
    live_at: datetime | None
    policy: dict[str, Any]
    policy_revision: int

    @property
    def live(self) -> Key | None:
        """The live version's monitor."""
        if self.live_model is None or self.live_version is None:
            return None
        return Key(self.name, self.live_model, self.live_version)


@dataclass(frozen=True)
class WaitingRows:
    """How many predictions of a monitor no window has taken yet, and since when."""

    key: Key
    rows: int
    oldest_at: datetime | None
    uncounted_labels: int
