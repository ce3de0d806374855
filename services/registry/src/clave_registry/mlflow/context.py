"""What the MLflow operations share."""

from dataclasses import dataclass

from clave_common.access import Caller
from clave_common.blobstore import PartStore
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import InvalidArgument

from clave_registry.mlflow.messages import milliseconds
from clave_registry.runtime.model_inspector import ModelInspector
from clave_registry.services.governance import record_change, tenant_of

SCHEME = "mlflow-artifacts:/"


@dataclass(frozen=True, slots=True)
class Context:
    """Stores and limits of the MLflow surface.

    Attributes:
        direct_transfer_s: Seconds for which a signed URL of the object store is good; 0 for no such URLs.
        public_url: Where clients reach the suite; None where it is what their request says.
    """

    database: Database
    store: PartStore
    clock: Clock
    inspector: ModelInspector
    blob_bytes_max: int
    direct_transfer_s: float = 0.0
    public_url: str | None = None

    def now_ms(self) -> int:
        """Give the time as MLflow writes it."""
        return milliseconds(self.clock.now())


async def audited(tx: Transaction, caller: Caller, action: str, resource: str, **details: object) -> None:
    """Write the audit entry of a change that came through this surface."""
    await record_change(tx, caller, action, resource, tenant=tenant_of(caller), via="mlflow", **details)


def page_size(asked: int, *, most: int) -> int:
    """Return max_results if it is within its limits.

    Raises:
        InvalidArgument: It is below 1 or above the cap.
    """
    if not 1 <= asked <= most:
        raise InvalidArgument(
            f"Invalid value {asked} for parameter 'max_results' supplied: it must be 1 to {most}.",
            field="max_results",
            limit=most,
        )
    return asked


VIEWS = {"ACTIVE_ONLY": ("active",), "DELETED_ONLY": ("deleted",), "ALL": ("active", "deleted")}
_VIEW_NUMBERS = {"1": "ACTIVE_ONLY", "2": "DELETED_ONLY", "3": "ALL"}


def lifecycles(view: str) -> tuple[str, ...]:
    """Name the lifecycle stages that a ViewType shows.

    Raises:
        InvalidArgument: There is no such view.
    """
    name = _VIEW_NUMBERS.get(view, view.upper())
    if name not in VIEWS:
        raise InvalidArgument(f"Invalid value {view[:50]} for parameter 'view_type' supplied.", field="view_type")
    return VIEWS[name]
