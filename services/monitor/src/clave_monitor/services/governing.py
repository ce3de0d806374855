"""What people change: policies, alerts, approvals. Each change is audited in its own transaction."""

from datetime import datetime
from typing import Any

from clave_common.access.model import Caller
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import Aborted, FailedPrecondition, NotFound
from clave_contracts.events import AuditEntry
from clave_contracts.monitor import Alert, Decision, RetrainingPolicy

from clave_monitor.domain.retraining import Reason
from clave_monitor.services.alerting import AlertName
from clave_monitor.services.policies import policy_of, retraining_policy
from clave_monitor.services.state import restored
from clave_monitor.storage import alerts, decisions, monitors
from clave_monitor.storage.records import Key

_CLEARED_BY = {AlertName.INPUT_DRIFT.value, AlertName.PREDICTION_DRIFT.value, AlertName.PERFORMANCE.value}


class AlertUnknown(NotFound):
    """There is no such alert."""

    code = "alert_not_found"


class DecisionUnknown(NotFound):
    """There is no such decision."""

    code = "decision_not_found"


class NothingToApprove(FailedPrecondition):
    """The decision does not wait for a person, or has been answered."""

    code = "nothing_to_approve"


class Governing:
    """Carries out what people decide about monitors."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def set_policy(
        self, endpoint: str, policy: RetrainingPolicy, *, caller: Caller, if_revision: int | None
    ) -> tuple[RetrainingPolicy, int]:
        """Store an endpoint's policy.

        Args:
            endpoint: The endpoint; it need not have answered yet.
            policy: The whole policy; fields that are left out take their defaults.
            caller: Who asks.
            if_revision: Revision the caller saw, None to replace whatever is there.

        Raises:
            InvalidArgument: The business hours are none.
            Aborted: Somebody else changed the policy since.
        """
        retraining_policy(policy)
        now = self._clock.now()
        async with self._database.transaction() as tx:
            known = await monitors.endpoint(tx, endpoint)
            revision = known.policy_revision if known else 0
            if if_revision is not None and if_revision != revision:
                raise Aborted(
                    "The policy was changed meanwhile; read it again.", code="stale_revision", revision=revision
                )
            body = policy.model_dump(mode="json", exclude_unset=True)
            await monitors.put_policy(tx, endpoint, body, by=caller.acting_for, at=now)
            await _audit(tx, caller, "drift:monitor.write", f"endpoints/{endpoint}/policy", now, {"policy": body})
        return policy_of(body), revision + 1

    async def change_alert(
        self, alert_id: str, *, caller: Caller, state: str, snoozed_until: datetime | None = None
    ) -> Alert:
        """Acknowledge, snooze or resolve an alert; resolving one of drift or harm clears its evidence.

        Raises:
            AlertUnknown: There is none with this id.
            FailedPrecondition: It is resolved already.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            row = await _alert(tx, alert_id)
            if row["state"] == "resolved":
                raise FailedPrecondition("The alert is resolved already.", code="alert_resolved", alert=alert_id)
            row = await alerts.change(
                tx, alert_id, state=state, snoozed_until=snoozed_until, changed_by=caller.acting_for
            )
            if state == "resolved" and row["name"] in _CLEARED_BY:
                await _clear(tx, row, at=now)
            details: dict[str, Any] = {"name": row["name"], "state": state}
            await _audit(tx, caller, "drift:alert.write", f"alerts/{alert_id}", now, details)
        return Alert(**row)

    async def endpoint_of(self, decision_id: str) -> str:
        """Name the endpoint that a decision is about.

        Raises:
            DecisionUnknown: There is none with this id.
        """
        async with self._database.transaction() as tx:
            return str((await _decision(tx, decision_id))["endpoint"])

    async def endpoint_of_alert(self, alert_id: str) -> str:
        """Name the endpoint that an alert is about.

        Raises:
            AlertUnknown: There is none with this id.
        """
        async with self._database.transaction() as tx:
            return str((await _alert(tx, alert_id))["endpoint"])

    async def answer(self, decision_id: str, *, caller: Caller, approved: bool, comment: str) -> tuple[Decision, Key]:
        """Approve or deny a retraining that waits for a person.

        Raises:
            DecisionUnknown: There is none with this id.
            NothingToApprove: It does not wait for an answer.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            row = await _decision(tx, decision_id)
            if row["reason"] != Reason.APPROVAL_NEEDED or row["approved"] is not None:
                raise NothingToApprove(
                    "This decision does not wait for an answer.", decision=decision_id, reason=row["reason"]
                )
            row = await decisions.change(tx, decision_id, approved=approved, approved_by=caller.acting_for)
            details = {"approved": approved, "comment": comment[:1000]}
            await _audit(tx, caller, "drift:monitor.write", f"decisions/{decision_id}", now, details)
        return Decision(**row), Key(row["endpoint"], row["model"], row["model_version"])


async def _alert(tx: Transaction, alert_id: str) -> dict[str, Any]:
    """Find an alert and hold it, or say that there is none."""
    row = await alerts.find(tx, alert_id)
    if row is None:
        raise AlertUnknown(f"There is no alert {alert_id}.", alert=alert_id)
    return row


async def _decision(tx: Transaction, decision_id: str) -> dict[str, Any]:
    """Find a decision and hold it, or say that there is none."""
    row = await decisions.find(tx, decision_id)
    if row is None:
        raise DecisionUnknown(f"There is no decision {decision_id}.", decision=decision_id)
    return row


async def _clear(tx: Transaction, alert: dict[str, Any], *, at: datetime) -> None:
    key = Key(alert["endpoint"], alert["model"], alert["model_version"])
    monitor = await monitors.lock(tx, key, at=at)
    state = restored(monitor.state)
    harm = alert["name"] == AlertName.PERFORMANCE.value
    state = state.clear_harm() if harm else state.clear_drift()
    await monitors.change(tx, key, at=at, state=state.stored())


async def _audit(
    tx: Transaction, caller: Caller, action: str, resource: str, at: datetime, details: dict[str, Any]
) -> None:
    await tx.audit(
        AuditEntry(
            service="monitor",
            time=at,
            actor=caller.subject_id,
            on_behalf_of=caller.on_behalf_of,
            tenant=caller.tenant,
            action=action,
            resource=resource,
            details=details,
        )
    )
