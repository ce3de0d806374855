"""Monitor: a calm stretch without an alarm, then the mix of customers shifts until the monitor decides by itself."""

from datetime import UTC, datetime, timedelta

from clave_contracts.monitor import Decision, Report
from clave_contracts.problems import ServiceProblem

from clave.demo.build import ingest
from clave.demo.stage import Stage, until
from clave.demo.telco import draw_stream
from clave.demo.traffic import Application
from clave.failures import Failure

_WINDOWS_MIN = 2
_NOT_FOUND = 404
_FEATURES_TOLD = 4
_METRICS_TOLD = ("error", "log_loss", "auc")
_JUST_NOW = timedelta(seconds=5)


async def calm(stage: Stage, application: Application) -> Report:
    """Serve known customers and see that nothing alarms.

    Raises:
        Failure: The monitor asked for a retraining although nothing had changed.
    """
    stage.timeline.chapter("Monitor, calm: known customers, real outcomes")
    stream = draw_stream(stage.market, rows=stage.plan.calm_rows, wave_share=0.0, seed=stage.plan.seed + 1)
    with stage.timeline.bar("known customers") as bar:
        for start in range(0, len(stream), stage.plan.batch_rows):
            await application.serve(stream[start : start + stage.plan.batch_rows])
            bar.update((start + stage.plan.batch_rows) / len(stream), "known customers")
    endpoint = stage.pipeline.endpoint

    async def look() -> Report | None:
        try:
            report = await stage.admin.report(endpoint)
        except ServiceProblem as problem:
            if problem.status == _NOT_FOUND:  # the first predictions are still on their way to the monitor
                return None
            raise
        enough = report.windows >= _WINDOWS_MIN and report.performance.labels >= stage.plan.calm_rows // 2
        return report if enough else None

    report = await until(look, patience_s=60, what="the monitor's first windows")
    decisions = (await stage.admin.monitor.decisions(endpoint)).decisions
    alarms = [decision for decision in decisions if decision.decision == "retrain"]
    if alarms:
        raise Failure(f"The monitor decided to retrain in the calm stretch: {alarms[0].reason}")
    tell_report(stage, report, "no alarm")
    return report


async def shift(stage: Stage, application: Application) -> tuple[Decision, Report]:
    """Let the wave arrive and serve it until the monitor decides to retrain.

    Returns:
        The decision, and the report of that moment.
    """
    stage.timeline.chapter("Monitor, shift: month-to-month fibre customers arrive (real ones, resampled)")
    # Their features become known as they arrive; what becomes of them only through feedback.
    await ingest(stage, stage.market.wave, at=datetime.now(UTC) - _JUST_NOW, labels_at=None)
    stage.timeline.mark("shift_began")
    plan, endpoint = stage.plan, stage.pipeline.endpoint
    stream = draw_stream(stage.market, rows=plan.wave_rows_max, wave_share=plan.wave_share, seed=plan.seed + 2)
    drift_told = False
    decision: Decision | None = None
    with stage.timeline.bar("changed mix") as bar:
        for start in range(0, len(stream), plan.batch_rows):
            await application.serve(stream[start : start + plan.batch_rows])
            report = await stage.admin.report(endpoint)
            realised = report.performance.realised.get("error")
            shown = "" if realised is None else f", realised error {realised:.3f}"
            bar.update(start / len(stream), f"changed mix: {start + plan.batch_rows} rows, {report.state}{shown}")
            if not drift_told and any(feature.drifted for feature in report.features):
                drift_told = True
                stage.timeline.mark("drift_named")
                tell_report(stage, report, f"drift after {start + plan.batch_rows} changed rows")
            decision = await _retraining_decision(stage)
            if decision is not None:
                break

    if decision is None:
        decision = await until(
            lambda: _retraining_decision(stage), patience_s=plan.patience_s, what="the decision to retrain"
        )
    stage.timeline.mark("decided_to_retrain")
    report = await stage.admin.report(endpoint)
    tell_report(stage, report, "harm is shown by real outcomes", features=False)
    stage.timeline.line(
        f"the monitor decided by itself to retrain: {decision.reason.replace('_', ' ')}",
        style="bold",
        decision=decision.model_dump(mode="json"),
    )
    return decision, report


async def _retraining_decision(stage: Stage) -> Decision | None:
    page = await stage.admin.monitor.decisions(stage.pipeline.endpoint)
    return next((item for item in page.decisions if item.decision == "retrain"), None)


def compare_to_reference(realised: dict[str, float], reference: dict[str, float]) -> str:
    """Write the chosen figures beside those of the version's own test split."""
    return ", ".join(
        f"{name.replace('_', ' ')} {realised[name]:.3f} (reference {reference[name]:.3f})"
        for name in _METRICS_TOLD
        if name in realised and name in reference
    )


def tell_report(stage: Stage, report: Report, verdict: str, *, features: bool = True) -> None:
    """Tell a report: its state, performance against the reference, and the features that moved."""
    compared = compare_to_reference(report.performance.realised, report.performance.reference)
    stage.timeline.line(
        f"{verdict}: v{report.model_version} is '{report.state}' after {report.rows} rows in {report.windows} windows, "
        f"{report.performance.labels} outcomes; {compared}",
        report=report.model_dump(mode="json"),
    )
    moved = sorted((item for item in report.features if item.drifted), key=lambda item: -item.effect)
    for item in moved[:_FEATURES_TOLD] if features else []:
        stage.timeline.line(
            f"  drifted: {item.feature:<18} moved by {item.effect:.2f} (at least {item.effect_low:.2f}), "
            f"PSI {item.psi:.2f}"
        )
    if features and len(moved) > _FEATURES_TOLD:
        stage.timeline.line(f"  and {len(moved) - _FEATURES_TOLD} more")
