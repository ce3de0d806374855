"""Build: apply the feature repository, ingest the real table, train and register, look at the card."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from clave_contracts.features import FeatureView, IngestReport
from clave_contracts.registry import API as REGISTRY
from clave_contracts.registry import GateVerdict, Version
from clave_contracts.trainer import Run

from clave.demo.stage import Stage, expect_success, watch_run
from clave.demo.telco import Customer, join_keys_of, to_csv

# The table carries no dates: the past is dated two days ago, its outcomes one day ago.
_PAST = timedelta(days=2)
_PAST_OUTCOMES = timedelta(days=1)
_METRICS_TOLD = ("auc", "log_loss", "brier", "calibration_error", "precision", "recall")


async def apply_repository(stage: Stage) -> None:
    """Send entities, views, services, the pipeline and the retraining policy."""
    stage.timeline.chapter("Features: apply the repository, ingest the real table")
    answer = await stage.admin.apply(stage.files.features)
    counts = ", ".join(f"{change.kind} {change.name} {change.change}" for change in answer.changes)
    stage.timeline.line(f"applied: {counts}", changes=[change.model_dump() for change in answer.changes])
    for spec in stage.files.pipelines:
        pipeline = await stage.admin.trainer.put_pipeline(spec)
        stage.timeline.line(
            f"pipeline {pipeline.name}, version {pipeline.version}", pipeline=pipeline.name, version=pipeline.version
        )


async def apply_policies(stage: Stage) -> None:
    """Tell the monitor when each endpoint's model is to be retrained."""
    for endpoint, policy in stage.files.policies.items():
        stored = await stage.admin.monitor.put_policy(endpoint, policy)
        stage.timeline.line(
            f"retraining policy of {endpoint}: windows of {stored.window_rows} rows, "
            f"harm tolerated up to +{stored.loss_tolerance:.2f} mean error, {stored.labels_min} fresh outcomes needed",
            policy=stored.model_dump(mode="json"),
        )


async def ingest_past(stage: Stage) -> None:
    """Ingest everybody the company knew, with what became of them."""
    market, now = stage.market, datetime.now(UTC)
    stage.timeline.line(
        f"{len(market.past)} real customers are the past; {len(market.wave)} more, month-to-month on fibre, come later",
        past=len(market.past),
        wave=len(market.wave),
        incomplete=market.incomplete,
    )
    await ingest(stage, market.past, at=now - _PAST, labels_at=now - _PAST_OUTCOMES)


async def ingest(stage: Stage, customers: list[Customer], *, at: datetime, labels_at: datetime | None) -> None:
    """Ingest customers into every view; into the label views only when their outcomes are known."""
    for view in stage.files.features.feature_views:
        if view.label and labels_at is None:
            continue
        moment = labels_at if view.label and labels_at is not None else at
        table = to_csv(view, join_keys_of(stage.files.features, view), customers, moment)
        report = await stage.admin.ingest(view.name, table)
        _tell_ingest(stage, view, report)
    stage.timeline.mark("ingested")


def _tell_ingest(stage: Stage, view: FeatureView, report: IngestReport) -> None:
    reasons = "; ".join(f"{reason.rows} x {reason.column} {reason.rule}" for reason in report.reasons)
    stage.timeline.line(
        f"ingested {report.accepted} of {report.rows} rows into {view.name}, "
        f"{report.quarantined} quarantined{f' ({reasons})' if reasons else ''}, {report.online_written} online",
        report=report.model_dump(mode="json"),
    )


async def train_first_version(stage: Stage) -> Run:
    """Run the pipeline for the first time; the first version of an endpoint goes live at once."""
    stage.timeline.chapter("Build: training set, XGBoost, ONNX with proof, gates, registration, approval, endpoint")
    run = await stage.admin.start_run(stage.pipeline.name, reason="first model of the demo")
    finished = expect_success(await watch_run(stage, run.id))
    stage.timeline.mark("first_version_live")
    return finished


def tell_gates(stage: Stage, gates: Sequence[GateVerdict]) -> None:
    """Tell the gates in a line for each verdict; the card has every figure."""
    verdicts = {gate.verdict: [other.gate for other in gates if other.verdict == gate.verdict] for gate in gates}
    for verdict, names in verdicts.items():
        word = "for review" if verdict == "review" else verdict.replace("_", " ")
        stage.timeline.line(
            f"  gates {word}: {', '.join(names)}",
            gates=[gate.model_dump() for gate in gates if gate.verdict == verdict],
        )


async def show_version(stage: Stage, model: str, number: int) -> Version:
    """Tell what the registry knows of a version, and the sections of its card."""
    version = await stage.admin.version(model, number)
    test = version.evaluation.metrics.get("test", {}) if version.evaluation else {}
    figures = ", ".join(f"{name.replace('_', ' ')} {test[name]:.4f}" for name in _METRICS_TOLD if name in test)
    stage.timeline.line(
        f"{model} v{number} is {version.status}; on its test split: {figures}",
        version=number,
        status=version.status,
        manifest_digest=version.manifest_digest,
        metrics=version.evaluation.metrics if version.evaluation else {},
        datasets=[dataset.model_dump(mode="json") for dataset in version.lineage.datasets],
    )
    tell_gates(stage, version.evaluation.gates if version.evaluation else [])
    card = await stage.admin.registry.send(
        "GET", f"{REGISTRY}/models/{model}/versions/{number}/card", headers={"accept": "text/markdown"}
    )
    sections = [line.lstrip("# ") for line in card.text.splitlines() if line.startswith("## ")]
    stage.timeline.line(f"model card: {', '.join(sections)}", card_sections=sections, card_chars=len(card.text))
    return version
