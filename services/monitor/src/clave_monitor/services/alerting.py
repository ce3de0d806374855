"""Alerts: what is raised, how urgent it is, and what resolves it.

Fatigue is kept low by construction: one standing alert per name and version, counted instead of
repeated; broken data quality inhibits the drift and estimate alerts of its version; a snoozed alert counts silently
until its snooze is over; evidence without effect (`watch`) raises nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from clave_common.database import Transaction
from clave_contracts.events import Event

from clave_monitor.storage import alerts
from clave_monitor.storage.records import Key


class AlertName(StrEnum):
    """Every alert the monitor can raise."""

    INPUT_DRIFT = "ModelInputDrift"
    PREDICTION_DRIFT = "ModelPredictionDrift"
    DATA_QUALITY = "DataQualityBroken"
    PERFORMANCE = "ModelPerformanceLow"
    ESTIMATE = "EstimatedPerformanceLow"
    APPROVAL = "RetrainingApprovalNeeded"
    NO_REFERENCE = "MonitorWithoutReference"


@dataclass(frozen=True)
class Template:
    """How an alert reads."""

    severity: str
    remedy: str


_TEMPLATES = {
    AlertName.INPUT_DRIFT: Template(
        "ticket", "Look at the named features' sources; resolve the alert to start afresh."
    ),
    AlertName.PREDICTION_DRIFT: Template("ticket", "Compare with input drift; check the score's consumers."),
    AlertName.DATA_QUALITY: Template("ticket", "Mend the feed of the named columns; it resolves itself."),
    AlertName.PERFORMANCE: Template("page", "A retraining follows by policy; roll back if it cannot wait."),
    AlertName.ESTIMATE: Template("ticket", "Bring outcomes sooner, or wait for drift to confirm it."),
    AlertName.APPROVAL: Template("ticket", "Approve or deny it: clave monitor answer ID --approve (or --deny)."),
    AlertName.NO_REFERENCE: Template("ticket", "Register the version with monitoring/reference.parquet."),
}


async def raise_alert(
    tx: Transaction, key: Key, name: AlertName, *, at: datetime, summary: str, evidence: dict[str, Any]
) -> None:
    """Raise or count an alert; tell others when it is new."""
    template = _TEMPLATES[name]
    alert, tell = await alerts.raise_or_count(
        tx,
        key,
        at=at,
        name=name.value,
        severity=template.severity,
        remedy=template.remedy,
        summary=summary,
        evidence=evidence,
    )
    if tell:
        await tx.emit(
            Event(
                type="AlertRaised",
                source="monitor",
                subject=key.subject,
                time=at,
                data={
                    "alert_id": alert["id"],
                    "name": name.value,
                    "severity": template.severity,
                    "summary": summary,
                    "endpoint": key.endpoint,
                    "model": key.model,
                    "model_version": key.model_version,
                },
            )
        )


async def resolve_alert(tx: Transaction, key: Key, name: AlertName, *, at: datetime) -> None:
    """Close an alert whose cause is gone, if it stands."""
    await alerts.resolve(tx, key, name.value, at=at)
