"""The operations that the routes call."""

from dataclasses import dataclass

from clave_common.access import Access
from clave_common.clock import Clock
from clave_common.database import Database

from clave_monitor.services.comparison import Comparison
from clave_monitor.services.evaluation import Evaluation
from clave_monitor.services.governing import Governing
from clave_monitor.services.ingestion import Ingestion
from clave_monitor.services.reporting import Reporting
from clave_monitor.services.wakeup import WakeUp


@dataclass(frozen=True)
class Operations:
    """Everything that a route may call."""

    database: Database
    access: Access
    clock: Clock
    ingestion: Ingestion
    evaluation: Evaluation
    reporting: Reporting
    governing: Governing
    comparison: Comparison
    wake_up: WakeUp
