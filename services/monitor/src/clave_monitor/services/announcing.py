"""What a round tells others: events for what is new, alerts for what stands."""

from clave_common.database import Transaction
from clave_contracts.events import Event

from clave_monitor.domain.counters import Scope
from clave_monitor.services.alerting import AlertName, raise_alert, resolve_alert
from clave_monitor.services.rounds import Round


async def announce(tx: Transaction, work: Round) -> None:
    """Tell others what this round found for the first time."""
    who = work.key.values()
    for scope in sorted(work.newly_gated):
        data = who | {"scope": scope.value} | work.report["scopes"][scope.value]
        await tx.emit(Event(type="DriftDetected", source="monitor", subject=work.key.subject, time=work.at, data=data))
    if work.newly_harmed:
        performance = work.report["performance"]
        data = who | {name: performance[name] for name in ("realised", "reference", "harm_evidence_log10")}
        await tx.emit(
            Event(
                type="PerformanceDegraded",
                source="monitor",
                subject=work.key.subject,
                time=work.at,
                data=data,
            )
        )


async def raise_alerts(tx: Transaction, work: Round) -> None:
    """Raise what stands now; broken quality inhibits what rests on the same inputs."""
    performance = work.report["performance"]
    if performance["harmed"]:
        summary = "Outcomes prove that the loss exceeds what is accepted."
        evidence = {name: performance[name] for name in ("realised", "reference", "labels")}
        await raise_alert(tx, work.key, AlertName.PERFORMANCE, at=work.at, summary=summary, evidence=evidence)
    if not work.windows:
        return
    if work.state.quality_broken:
        broken = work.report["data_quality"]
        names = ", ".join(f"{v['feature']} ({v['check']})" for v in broken[:5])
        summary = f"{len(broken)} columns are not as in the reference: {names}."
        await raise_alert(
            tx, work.key, AlertName.DATA_QUALITY, at=work.at, summary=summary, evidence={"violations": broken}
        )
        return
    await resolve_alert(tx, work.key, AlertName.DATA_QUALITY, at=work.at)
    for scope, name in ((Scope.INPUT, AlertName.INPUT_DRIFT), (Scope.PREDICTION, AlertName.PREDICTION_DRIFT)):
        found = work.report["scopes"][scope.value]
        if found["state"] == "drift":
            named = ", ".join(found["named"][:5]) or "the score"
            summary = f"Changed by at least {found['effect_low']:.3f}: {named}."
            await raise_alert(tx, work.key, name, at=work.at, summary=summary, evidence=found)
    if work.state.estimate_dropped:
        summary = f"The estimate dropped below its band: {', '.join(performance['estimate_dropped'])}."
        evidence = {name: performance[name] for name in ("estimated", "reference", "estimate_rows")}
        await raise_alert(tx, work.key, AlertName.ESTIMATE, at=work.at, summary=summary, evidence=evidence)
    else:
        await resolve_alert(tx, work.key, AlertName.ESTIMATE, at=work.at)
