"""The demo's order of events: build, deploy, monitor, retrain, and one refusal."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from clave_contracts.monitor import Report
from clave_contracts.problems import ServiceProblem

from clave.client import AsyncClient
from clave.demo import build, retraining, serving, watching
from clave.demo.stage import Plan, Stage
from clave.demo.telco import load_market
from clave.demo.timeline import Timeline
from clave.demo.traffic import Application
from clave.failures import Refused
from clave.repository import load_repository
from clave.stack.secrets import write_secret

REPOSITORY = Path(__file__).parent / "churn_repo"
_NOT_FOUND = 404


async def close_the_loop(timeline: Timeline, *, admin: AsyncClient, plan: Plan, key_file: Path) -> dict[str, Any]:
    """Tell the whole story against a running stack.

    Args:
        timeline: Where it is told.
        admin: Speaks with the administrator's key.
        plan: How much to do.
        key_file: Where to keep the application's key, 0600.

    Returns:
        The summary: figures from the services' own answers.

    Raises:
        Refused: The stack knows the demo's model already.
    """
    files = load_repository(REPOSITORY)
    stage = Stage(timeline=timeline, admin=admin, files=files, market=load_market(plan.seed), plan=plan)
    await _expect_fresh(stage)
    await build.apply_repository(stage)
    await build.ingest_past(stage)
    first = await build.train_first_version(stage)
    first_version = first.model_version or 1
    await build.show_version(stage, stage.pipeline.model, first_version)
    await build.apply_policies(stage)
    await serving.await_endpoint(stage)
    key = await serving.create_application_key(stage)
    write_secret(key_file, key.key)
    connection = serving.application_connection(stage, key)
    async with AsyncClient(connection.url, connection.api_key, ca_file=connection.ca_file) as client:
        application = Application(
            client, endpoint=stage.pipeline.endpoint, feature_service=stage.pipeline.feature_service
        )
        await serving.first_predictions(stage, application)
        before = await watching.calm(stage, application)
        decision, harmed = await watching.shift(stage, application)
        retrained = await retraining.retrain(stage, application, decision)
        second_version = retrained.model_version or first_version
        await build.show_version(stage, stage.pipeline.model, second_version)
        refused = await retraining.refuse_bad_challenger(stage)
    endpoint = await admin.registry.endpoint(stage.pipeline.endpoint)
    return {
        "endpoint": endpoint.name,
        "first_version": first_version,
        "live_version": endpoint.live_version,
        "calm": _performance(before),
        "shifted": _performance(harmed),
        "drifted_features": [
            item.feature for item in sorted(harmed.features, key=lambda item: -item.effect) if item.drifted
        ],
        "decision": decision.reason,
        "retraining_run": retrained.id,
        "refused_run": refused.id,
        "refused_reasons": refused.reasons,
        "application": {**asdict(application.tally), "rows_by_version": dict(application.tally.rows_by_version)},
        "marks_s": timeline.marks,
    }


async def _expect_fresh(stage: Stage) -> None:
    try:
        endpoint = await stage.admin.registry.endpoint(stage.pipeline.endpoint)
    except ServiceProblem as problem:
        if problem.status == _NOT_FOUND:
            return
        raise
    raise Refused(
        f"This stack has an endpoint {endpoint.name!r} already, on v{endpoint.live_version}.",
        remedy=(
            "The demo begins with nothing. Give it a folder of its own with --data-dir DIR, "
            "or delete this stack and everything in it with `clave down --purge`."
        ),
    )


def _performance(report: Report) -> dict[str, Any]:
    return {
        "state": report.state,
        "rows": report.rows,
        "outcomes": report.performance.labels,
        "realised": report.performance.realised,
        "reference": report.performance.reference,
    }
