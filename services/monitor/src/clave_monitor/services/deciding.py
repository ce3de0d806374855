"""Deciding: what was found becomes a recorded decision, and a retraining becomes an event in the same transaction."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clave_common.database import Transaction
from clave_common.ids import new_id
from clave_contracts.events import Event, RetrainingRequested
from clave_contracts.monitor import RetrainingPolicy as PolicyBody

from clave_monitor.domain.retraining import Decision, Outcome, Reason, Situation, decide
from clave_monitor.services.alerting import AlertName, raise_alert, resolve_alert
from clave_monitor.services.policies import retraining_policy
from clave_monitor.services.state import MonitorState
from clave_monitor.storage import decisions
from clave_monitor.storage.records import Key


@dataclass(frozen=True)
class Finding:
    """What an evaluation found about the live version."""

    key: Key
    at: datetime
    state: MonitorState
    report: dict[str, Any]
    labels: int


async def decide_and_record(tx: Transaction, finding: Finding, policy: PolicyBody) -> Decision | None:
    """Decide whether to retrain, and record a decision that says something new.

    Returns:
        The decision if it was recorded, None if it repeats the last one.
    """
    earlier = await decisions.latest(tx, finding.key)
    history = await decisions.history(tx, finding.key.endpoint, now=finding.at)
    situation = Situation(
        now=finding.at,
        harm_proven=bool(finding.report["performance"]["harmed"]),
        estimate_dropped=finding.state.estimate_dropped,
        drift_gated=finding.state.gated,
        quality_broken=finding.state.quality_broken,
        in_flight=history.in_flight,
        last_ended_at=history.last_ended_at,
        recent_requests=history.within_a_day,
        fresh_labels=finding.labels,
        approved=_answer(earlier),
    )
    decision = decide(situation, retraining_policy(policy))
    if not _says_something_new(decision, earlier):
        return None
    await _record(tx, finding, policy, decision)
    return decision


def _answer(earlier: dict[str, Any] | None) -> bool | None:
    """Give a person's standing answer; a denial stands until the evidence is cleared."""
    if earlier is None:
        return None
    if earlier["reason"] == Reason.APPROVAL_DENIED:
        return False
    approved: bool | None = earlier["approved"]
    return approved if earlier["reason"] == Reason.APPROVAL_NEEDED else None


def _says_something_new(decision: Decision, earlier: dict[str, Any] | None) -> bool:
    if decision.outcome is Outcome.RETRAIN:
        return True
    if earlier is None:
        return decision.reason is not Reason.NO_CAUSE
    return (decision.outcome.value, decision.reason.value) != (earlier["decision"], earlier["reason"])


async def _record(tx: Transaction, finding: Finding, policy: PolicyBody, decision: Decision) -> None:
    decision_id = new_id("decision")
    evidence = _evidence(finding, decision)
    await decisions.add(
        tx,
        {
            "id": decision_id,
            **finding.key.values(),
            "at": finding.at,
            "decision": decision.outcome.value,
            "reason": decision.reason.value,
            "sentence": decision.sentence,
            "evidence": evidence,
        },
    )
    if decision.outcome is Outcome.RETRAIN:
        request = RetrainingRequested(
            endpoint=finding.key.endpoint,
            pipeline=policy.pipeline or finding.key.endpoint,
            model=finding.key.model,
            model_version=finding.key.model_version,
            decision_id=decision_id,
            reason=decision.sentence,
            evidence=evidence,
            evaluation_after=finding.state.since,
        )
        await _tell(tx, finding, "RetrainingRequested", request.model_dump(mode="json"))
    elif decision.outcome is Outcome.REFUSE:
        data = finding.key.values() | {"decision_id": decision_id, "reason": decision.reason.value}
        await _tell(tx, finding, "RetrainingDeclined", data)
    await _ask_a_person(tx, finding, decision, decision_id)


async def _tell(tx: Transaction, finding: Finding, kind: Any, data: dict[str, Any]) -> None:
    await tx.emit(Event(type=kind, source="monitor", subject=finding.key.subject, time=finding.at, data=data))


async def _ask_a_person(tx: Transaction, finding: Finding, decision: Decision, decision_id: str) -> None:
    if decision.reason is Reason.APPROVAL_NEEDED:
        await raise_alert(
            tx,
            finding.key,
            AlertName.APPROVAL,
            at=finding.at,
            summary=decision.sentence,
            evidence={"decision_id": decision_id},
        )
    else:
        await resolve_alert(tx, finding.key, AlertName.APPROVAL, at=finding.at)


def _evidence(finding: Finding, decision: Decision) -> dict[str, Any]:
    """Gather the figures behind a decision: small, JSON-able, enough to judge it later."""
    performance = finding.report["performance"]
    since = finding.state.since
    return {
        "sentence": decision.sentence,
        "cause": decision.cause.value if decision.cause else None,
        "scopes": finding.report.get("scopes", {}),
        "features": [
            {name: feature[name] for name in ("feature", "effect", "effect_low", "p_value", "psi")}
            for feature in finding.report.get("features", [])
            if feature["drifted"]
        ],
        "data_quality": finding.report.get("data_quality", []),
        "performance": {
            name: performance[name]
            for name in (
                "estimated",
                "estimated_band",
                "estimate_rows",
                "estimate_dropped",
                "realised",
                "realised_rows",
                "reference",
                "labels",
                "label_coverage",
                "harm_evidence_log10",
                "harm_limit_log10",
                "harmed",
            )
        },
        "since": since.isoformat() if since else None,
    }
