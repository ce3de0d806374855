"""From predictions and outcomes to drift, harm and the decision to retrain, on real Postgres and Valkey."""

from datetime import timedelta

import duckdb
import pytest
from clave_contracts.events import Event, RetrainingRequested
from clave_monitor.storage.records import Key
from monitor_calls import decisions, entry, evaluate, events, feedback, predict, report, set_policy

pytestmark = pytest.mark.integration


async def test_quiet_traffic_is_ok_and_decides_nothing(monitor, traffic):
    await set_policy(monitor)
    records, outcomes = traffic.records(1000)
    await predict(monitor, records)
    result = await feedback(monitor, outcomes)
    assert result == {"joined": 1000, "pending": 0, "duplicates": 0, "refused": []}
    await evaluate(monitor)
    found = await report(monitor)
    assert (found.state, found.windows, found.rows) == ("ok", 4, 1000)
    assert found.performance.label_coverage == 1.0
    assert found.performance.realised["auc"] == pytest.approx(found.performance.reference["auc"], abs=0.08)
    assert found.performance.estimated["accuracy"] == pytest.approx(found.performance.realised["accuracy"], abs=0.05)
    assert found.fairness["female"]["verdict"] in ("pass", "review")
    assert await decisions(monitor) == []


async def test_drift_alone_never_retrains(monitor, traffic):
    await set_policy(monitor, estimated_drop_max=0.5)
    await predict(monitor, traffic.records(1000, fibre=0.95)[0])
    await evaluate(monitor)
    found = await report(monitor)
    assert found.state == "drift"
    assert {f.feature for f in found.features if f.drifted} >= {"fibre", "charges"}
    assert [(d["decision"], d["reason"]) for d in await decisions(monitor)] == [("wait", "drift_without_harm")]
    kinds = [event.type for event in await events(monitor)]
    assert "DriftDetected" in kinds
    assert "RetrainingRequested" not in kinds
    alerts = (await monitor.get("/alerts", params={"endpoint": "churn"})).json()["alerts"]
    assert {a["name"] for a in alerts} == {"ModelInputDrift", "ModelPredictionDrift"}


async def test_realised_harm_retrains_once_and_waits_for_the_run(monitor, traffic):
    await set_policy(monitor)
    records, outcomes = traffic.records(1000, harm=0.25)
    await predict(monitor, records)
    await feedback(monitor, outcomes)
    await evaluate(monitor)
    assert (await report(monitor)).state == "harm"
    asked = [e for e in await events(monitor) if e.type == "RetrainingRequested"]
    assert len(asked) == 1
    request = RetrainingRequested.model_validate(asked[0].data)
    assert (request.pipeline, request.model_version) == ("churn", 1)
    assert request.evidence["performance"]["harmed"] is True
    assert request.evaluation_after is not None

    await monitor.parts.operations.evaluation.reconsider()
    await monitor.parts.operations.evaluation.reconsider()
    assert [d["reason"] for d in await decisions(monitor)] == ["in_flight", "realised_harm"]

    started = Event(
        type="RunStarted",
        source="trainer",
        subject="runs/r1",
        data={
            "run_id": "r1",
            "pipeline": "churn",
            "requested_by": "service:monitor",
            "retraining_decision_id": request.decision_id,
        },
    )
    finished = started.model_copy(
        update={"type": "RunFinished", "data": started.data | {"status": "refused"}, "time": monitor.clock.now()}
    )
    for event in (started, finished, finished):
        await monitor.parts.runs.handle([entry(event.model_dump(mode="json"))])
    await monitor.parts.operations.evaluation.reconsider()
    assert (await decisions(monitor))[0]["reason"] == "cool_down"
    monitor.clock.at += timedelta(seconds=601)
    await monitor.parts.operations.evaluation.reconsider()
    latest = (await decisions(monitor))[0]
    assert (latest["decision"], latest["reason"]) == ("retrain", "realised_harm")


async def test_an_estimated_drop_with_drift_retrains_without_a_label(monitor, traffic):
    await set_policy(monitor, labels_min=1, estimated_drop_max=0.0)
    await predict(monitor, traffic.records(2000, fibre=1.0)[0])
    await evaluate(monitor)
    found = await decisions(monitor)
    assert found[0]["reason"] == "too_few_labels"
    assert found[0]["evidence"]["cause"] == "estimated_drop_with_drift"


async def test_a_person_approves_where_the_policy_wants_one(monitor, traffic):
    await set_policy(monitor, approval="human")
    records, outcomes = traffic.records(1000, harm=0.25)
    await predict(monitor, records)
    await feedback(monitor, outcomes)
    await evaluate(monitor)
    waiting = (await decisions(monitor))[0]
    assert waiting["reason"] == "approval_needed"
    answer = await monitor.post(f"/decisions/{waiting['id']}/answer", json={"approved": True})
    assert answer.status_code == 200, answer.text
    assert (await decisions(monitor))[0]["decision"] == "retrain"
    again = await monitor.post(f"/decisions/{waiting['id']}/answer", json={"approved": True})
    assert again.status_code in (409, 412), again.text


async def test_a_batch_that_comes_twice_counts_once(monitor, traffic):
    await set_policy(monitor)
    records, outcomes = traffic.records(500)
    await predict(monitor, records)
    await predict(monitor, records)
    await evaluate(monitor)
    await predict(monitor, records)
    await evaluate(monitor)
    assert (await report(monitor)).rows == 500
    assert (await report(monitor)).windows == 2
    await feedback(monitor, outcomes)
    assert await feedback(monitor, outcomes) == {"joined": 0, "pending": 0, "duplicates": 500, "refused": []}


async def test_outcomes_may_come_before_their_predictions(monitor, traffic):
    await set_policy(monitor)
    records, outcomes = traffic.records(300)
    assert (await feedback(monitor, outcomes))["pending"] == 300
    await predict(monitor, records)
    page = (await monitor.get("/endpoints/churn/labelled", params={"page_size": 1000})).json()
    assert len(page["rows"]) == 300
    assert page["rows"][0]["entities"]["customer_id"].startswith("c")


async def test_a_restart_between_taking_and_evaluating_changes_nothing(monitor, traffic):
    await set_policy(monitor)
    records, outcomes = traffic.records(600)
    await predict(monitor, records)
    await feedback(monitor, outcomes)
    async with monitor.restarted() as other:
        await evaluate(other)
        first = (await report(other)).model_dump()
        await evaluate(other)
        assert (await report(other)).model_dump() == first
    assert first["windows"] == 2
    assert first["performance"]["labels"] == 600


async def test_labelled_predictions_are_paged_without_gap_or_double(monitor, traffic):
    records, outcomes = traffic.records(230)
    await predict(monitor, records)
    await feedback(monitor, outcomes)
    seen, token = [], None
    while token != "":
        params = {"page_size": 100} | ({"page_token": token} if token else {})
        page = (await monitor.get("/endpoints/churn/labelled", params=params)).json()
        seen += [(row["prediction_id"], row["row"]) for row in page["rows"]]
        token = page["next_page_token"]
    assert len(seen) == len(set(seen)) == 230


async def test_a_broken_column_is_data_quality_and_inhibits_drift_alerts(monitor, traffic):
    await set_policy(monitor)
    records, _ = traffic.records(250, fibre=0.95)
    for record in records:
        for values in record.values:
            values[1] = None
    await predict(monitor, records)
    await evaluate(monitor)
    alerts = (await monitor.get("/alerts")).json()["alerts"]
    assert [a["name"] for a in alerts] == ["DataQualityBroken"]
    assert (await report(monitor)).data_quality[0]["feature"] == "charges"


async def test_the_log_holds_every_prediction_once(monitor, traffic, tmp_path):
    await predict(monitor, traffic.records(300)[0])
    log = monitor.parts.prediction_log
    assert await log.flush(force=True) == 1
    assert await log.flush(force=True) == 0
    files = f"{tmp_path}/blobs/predictions/*/*/*.parquet"
    found = duckdb.sql(f"select count(*), count(distinct (prediction_id, row)), avg(\"feature.fibre\") from '{files}'")
    [(rows, distinct, fibre)] = found.fetchall()
    assert (rows, distinct) == (300, 300)
    assert 0.2 < fibre < 0.6
    monitor.clock.at += timedelta(days=100)
    assert await log.forget() == 300


async def test_a_version_without_reference_says_so_and_keeps_its_predictions(monitor, traffic):
    await predict(monitor, traffic.records(1000, version=9)[0])
    await monitor.parts.operations.evaluation.evaluate(Key("churn", "churn", 9))
    found = await report(monitor)
    assert found.state == "no_data"
    assert "monitoring/reference.parquet" in found.data_quality[0]["detail"]
    assert found.rows == 1000


async def test_a_new_live_version_starts_afresh(monitor, traffic):
    await set_policy(monitor)
    await predict(monitor, traffic.records(500, fibre=0.95)[0])
    await evaluate(monitor)
    assert (await report(monitor)).state == "drift"
    await predict(monitor, traffic.records(500, version=2, at=monitor.clock.now() + timedelta(hours=1))[0])
    await evaluate(monitor)
    found = await report(monitor)
    assert (found.model_version, found.state) == (2, "ok")
    assert (await report(monitor, version=1)).state == "drift"


async def test_metrics_show_the_live_version(monitor, traffic):
    await set_policy(monitor)
    await predict(monitor, traffic.records(500)[0])
    await evaluate(monitor)
    await monitor.parts.operations.evaluation.reconsider()
    text = (await monitor.get("http://monitor/metrics")).text
    assert 'clave_drift_evalue_log10{endpoint="churn",model_name="churn",model_version="1",scope="input"}' in text
    assert 'clave_estimated_performance{endpoint="churn",metric="auc",model_name="churn",model_version="1"}' in text
