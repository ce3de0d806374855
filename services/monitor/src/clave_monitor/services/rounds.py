"""One round of an evaluation: what it works on and what it has found so far."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from clave_contracts.monitor import RetrainingPolicy as PolicyBody

from clave_monitor.domain.counters import Scope
from clave_monitor.runtime.references import Reference
from clave_monitor.services import looks
from clave_monitor.services.state import MonitorState
from clave_monitor.storage.records import Key, MonitorRow


@dataclass
class Round:
    """What one round works on and finds.

    Attributes:
        windows: Windows closed in this round.
        more: Something is left for another round.
    """

    key: Key
    at: datetime
    reference: Reference
    policy: PolicyBody
    monitor: MonitorRow
    state: MonitorState
    live: bool
    report: dict[str, Any]
    windows: int = 0
    rows: int = 0
    labels: int = 0
    more: bool = False
    last_look: looks.WindowLook | None = None
    last_window: int | None = None
    newly_gated: set[Scope] = field(default_factory=set)
    newly_harmed: bool = False
