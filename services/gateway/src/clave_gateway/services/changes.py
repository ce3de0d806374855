"""What every change of access leaves behind: a higher revision, an event that wakes the services, an audit entry."""

from clave_common.access.model import Caller, Decision
from clave_common.clock import Clock
from clave_common.database import Transaction
from clave_contracts.events import AuditEntry, Event

from clave_gateway.storage.state import bump_revision

SERVICE = "gateway"


async def record_change(
    tx: Transaction,
    clock: Clock,
    *,
    caller: Caller,
    action: str,
    resource: str,
    decision: Decision | None,
    details: dict[str, object],
    **state: object,
) -> int:
    """Bump the revision and write event and audit entry in the running transaction.

    Columns of the state row that change with it come as further arguments.

    Returns:
        The new revision.
    """
    revision = await bump_revision(tx.session, clock.now(), **state)
    await tx.emit(Event(type="AccessChanged", source=SERVICE, subject=resource, data={"revision": revision}))
    await record_audit(tx, clock, caller=caller, action=action, resource=resource, decision=decision, details=details)
    return revision


async def record_audit(
    tx: Transaction,
    clock: Clock,
    *,
    caller: Caller,
    action: str,
    resource: str,
    decision: Decision | None,
    details: dict[str, object],
) -> None:
    """Write an audit entry alone, for a change that touches no access."""
    await tx.audit(
        AuditEntry(
            time=clock.now(),
            service=SERVICE,
            actor=caller.subject_id,
            on_behalf_of=caller.on_behalf_of,
            tenant=caller.tenant,
            action=action,
            resource=resource,
            decision_id=decision.decision_id if decision else None,
            details=details,
        )
    )
