"""A run from its request to its rollout, on real Postgres and Valkey with a real worker."""

from datetime import timedelta

import psutil
import pytest
from clave_testing.patience import PATIENCE_S
from trainer_bench import step
from trainer_peers import START, table

pytestmark = pytest.mark.integration
ARTIFACTS = {"model.onnx", "model.ubj", "signature.json", "evaluation.json", "monitoring/reference.parquet"}


async def test_a_first_run_goes_from_data_to_a_live_version(trainer):
    trainer.start_worker()
    run = await trainer.ended((await trainer.start_run(reason="first")).id)
    assert run.status == "succeeded", run.reasons
    assert [each.state for each in run.steps] == ["succeeded"] * 10
    version = trainer.peers.versions[0]
    assert {each["path"] for each in version["artifacts"]} == ARTIFACTS
    assert version["contributors"] == ["user:ada"]
    assert version["evaluation"]["passed"]
    assert version["evaluation"]["metrics"]["test"]["auc"] > 0.7
    assert version["lineage"]["datasets"][0]["feature_views"] == {"customer": 1}
    assert trainer.peers.endpoint["live_version"] == run.model_version == 1
    assert {gate.gate: gate.verdict for gate in run.gates}["parity"] == "passed"
    assert ("/api/features/v1/training-sets", "user:ada") in trainer.peers.callers

    # The population turns; outcomes were collected; a challenger is judged on the window and rolled out.
    window = START + timedelta(days=90)
    turned = table(2500, seed=2, shift=1.0, first=10_000, start=window)
    trainer.peers.table = turned
    trainer.peers.labelled = [
        {
            "prediction_id": "prd_1",
            "row": 0,
            "predicted_at": window.isoformat(),
            "labelled_at": window.isoformat(),
            "entities": {"customer_id": "C1"},
            "model_version": 1,
            "outcome": 1.0,
        }
    ]
    request = {"evaluation_after": window.isoformat(), "retraining_decision_id": "dec_1"}
    second = await trainer.ended((await trainer.start_run(**request)).id)
    assert second.status == "succeeded", second.reasons
    gates = {gate.gate: gate for gate in second.gates}
    assert gates["champion_challenger"].verdict == "passed"
    assert gates["champion_challenger"].p_value < 0.01
    assert "test rows since" in step(second, "evaluate").output["window"]
    assert trainer.peers.endpoint["live_version"] == 2
    assert len(trainer.peers.ingested) == 1
    again = await trainer.http.post("/api/trainer/v1/pipelines/churn/runs", json=request)
    assert again.status_code == 409

    # A crippled challenger is refused, with every reason, and nothing of it is registered.
    third = await trainer.ended((await trainer.start_run(params={"rounds": 2, "max_depth": 1})).id)
    assert third.status == "refused"
    assert any("not significantly better" in reason for reason in third.reasons)
    assert {gate.gate for gate in third.gates if gate.verdict == "failed"} >= {"champion_challenger"}
    assert step(third, "register").state == "skipped"
    assert len(trainer.peers.versions) == 2


async def test_killing_a_worker_amid_training_loses_nothing(trainer):
    worker = trainer.start_worker()
    started = await trainer.start_run(params={"rounds": 20_000, "early_stopping_rounds": 0, "eta": 0.01})
    run = await trainer.until(
        started.id, lambda run: step(run, "train").progress > 0.01, what="progress of the training"
    )
    children = psutil.Process(worker.pid).children()
    worker.kill()
    worker.wait(PATIENCE_S)
    await trainer.until(started.id, lambda run: step(run, "train").state == "ready", what="the lease's end")
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]
    trainer.start_worker()
    run = await trainer.until(started.id, lambda run: step(run, "train").attempt == 2, what="a second start")
    assert step(run, "train").state == "running"
    assert step(run, "validate").attempt == 1
    journal = (await trainer.http.get(f"/api/trainer/v1/runs/{run.id}/attempts")).json()["attempts"]
    assert [each["outcome"] for each in journal if each["step"] == "train"] == ["lost", None]

    # Cancelling stops the second training at its next heartbeat.
    answer = await trainer.http.post(f"/api/trainer/v1/runs/{run.id}/cancel")
    assert answer.json()["status"] == "cancelled"
    second = psutil.Process(trainer.workers[-1].pid)
    await trainer.until(run.id, lambda _: not second.children(), what="the end of the cancelled training")
    assert (await trainer.http.post(f"/api/trainer/v1/runs/{run.id}/cancel")).status_code == 409


async def test_a_run_waits_for_approval_without_holding_a_worker_and_ends_refused_when_rejected(trainer):
    trainer.peers.approvals_needed = 1
    trainer.start_worker()
    started = await trainer.start_run()
    run = await trainer.until(started.id, lambda run: run.status == "waiting", what="waiting for approval")
    assert "0 of 1 given" in step(run, "approve").message
    trainer.peers.versions[0] |= {"status": "rejected", "status_reason": "not fair enough"}
    run = await trainer.ended(started.id)
    assert run.status == "refused"
    assert run.reasons == ["approval: version 1 is rejected (not fair enough)"]
    assert step(run, "approve").attempt == 1
    assert step(run, "roll_out").state == "skipped"


async def test_a_service_that_is_away_delays_a_run_and_bad_data_refuses_it(trainer):
    trainer.peers.away = True
    trainer.start_worker()
    started = await trainer.start_run()
    await trainer.until(
        started.id, lambda run: "attempt 1 failed" in step(run, "collect_feedback").message, what="a failed attempt"
    )
    trainer.peers.table = table(50)
    trainer.peers.away = False
    run = await trainer.ended(started.id)
    assert run.status == "refused"
    assert any("at least 200 are needed" in reason for reason in run.reasons)
    assert step(run, "train").state == "skipped"
