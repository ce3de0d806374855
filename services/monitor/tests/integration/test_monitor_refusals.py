"""Bad input, policies, alerts and the comparison of two arms through the monitor's own door."""

from datetime import timedelta

import pytest
from clave_common.streams import Entry
from clave_monitor.storage import monitors
from monitor_calls import decisions, evaluate, feedback, predict, set_policy

pytestmark = pytest.mark.integration


async def analysis(monitor, since, **params):
    asked = {"endpoint": "churn", "challenger": 2, "champion": 1, "since": since.isoformat()} | params
    response = await monitor.get("/analysis", params=asked)
    assert response.status_code == 200, response.text
    return response.json()


async def test_feedback_is_refused_per_item_with_the_reason(monitor, traffic):
    records, outcomes = traffic.records(10)
    await predict(monitor, records)
    first = outcomes[0]
    await feedback(monitor, [first])
    items = [first | {"row": 77}, first | {"outcome": 1 - first["outcome"]}, outcomes[1]]
    result = await feedback(monitor, items)
    assert result["joined"] == 1
    assert [(r["index"], r["code"]) for r in result["refused"]] == [(0, "no_such_row"), (1, "outcome_conflict")]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"items": []}',
        b'{"items": [{"prediction_id": "p", "outcome": "yes"}]}',
        b'{"items": [{"prediction_id": "p", "outcome": 1, "surprise": 2}]}',
        b'{"items": [{"prediction_id": "p", "outcome": 1, "occurred_at": "2026-01-01T00:00:00"}]}',
    ],
)
async def test_malformed_feedback_is_a_clear_problem_and_stores_nothing(monitor, body):
    response = await monitor.post("/feedback", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.json()["detail"]
    assert (await feedback(monitor, [{"prediction_id": "p", "outcome": 1}]))["pending"] == 1


async def test_an_unknown_endpoint_is_not_found(monitor):
    for path in ("report", "windows"):
        response = await monitor.get(f"/endpoints/nowhere/{path}")
        assert response.status_code == 404
        assert response.json()["code"] == "endpoint_not_found"


async def test_a_policy_is_versioned_and_checked(monitor):
    first = await monitor.get("/endpoints/churn/policy")
    assert first.json()["enabled"] is True
    stored = await monitor.put(
        "/endpoints/churn/policy", json={"window_rows": 100}, headers={"if-match": first.headers["etag"]}
    )
    assert stored.status_code == 200
    stale = await monitor.put(
        "/endpoints/churn/policy", json={"window_rows": 50}, headers={"if-match": first.headers["etag"]}
    )
    assert stale.status_code in (409, 412)
    for bad in ({"business_hours": {"zone": "Mars/Base"}}, {"window_rows": 0}, {"surprise": 1}):
        assert (await monitor.put("/endpoints/churn/policy", json=bad)).status_code in (400, 422)
    assert (await monitor.get("/endpoints/churn/policy")).json()["window_rows"] == 100


async def test_a_broken_stream_entry_is_passed_over(monitor, traffic):
    await monitor.parts.predictions.handle([Entry("s", b"1-0", "bad", b'{"no": "list"}')])
    await predict(monitor, traffic.records(5)[0])
    assert (await monitor.get("/endpoints/churn/report")).json()["rows"] == 5


async def test_a_good_challenger_passes(monitor, traffic):
    since = monitor.clock.now()
    await predict(monitor, traffic.records(500)[0])
    await predict(monitor, traffic.records(200, version=2, arm="canary")[0])
    found = await analysis(monitor, since)
    assert found["verdict"] == "pass", found
    assert (found["champion"]["rows"], found["challenger"]["rows"]) == (500, 200)


async def test_too_few_rows_are_inconclusive(monitor, traffic):
    since = monitor.clock.now()
    await predict(monitor, traffic.records(500)[0])
    await predict(monitor, traffic.records(10, version=2, arm="canary")[0])
    found = await analysis(monitor, since, rows_min=50)
    assert found["verdict"] == "inconclusive"
    assert "challenger has 10 of 50 requests" in found["reasons"]


async def test_a_failing_challenger_fails(monitor, traffic):
    since = monitor.clock.now()
    await predict(monitor, traffic.records(500)[0])
    records = [
        r.model_copy(update={"error": "boom", "score": []})
        for r in traffic.records(30, version=2, arm="canary", per_request=1)[0]
    ]
    await predict(monitor, records)
    found = await analysis(monitor, since)
    assert found["verdict"] == "fail"
    assert found["reasons"][0].startswith("error_rate")


async def test_a_challenger_with_worse_outcomes_fails(monitor, traffic):
    since = monitor.clock.now()
    old, old_outcomes = traffic.records(600)
    new, new_outcomes = traffic.records(400, version=2, arm="canary", harm=0.4)
    await predict(monitor, old + new)
    await feedback(monitor, old_outcomes + new_outcomes)
    found = await analysis(monitor, since)
    assert found["verdict"] == "fail"
    assert found["reasons"][0].startswith("loss")


async def test_a_champion_without_recent_traffic_is_judged_by_its_earlier_rows(monitor, traffic):
    await predict(monitor, traffic.records(500)[0])
    since = monitor.clock.now() + timedelta(hours=1)
    await predict(monitor, traffic.records(100, version=2, arm="canary", at=since)[0])
    found = await analysis(monitor, since)
    assert found["verdict"] == "pass"
    assert "stand in" in found["reasons"][-1]


async def test_alerts_are_counted_snoozed_and_resolved(monitor, traffic, asked):
    await set_policy(monitor, estimated_drop_max=0.9)
    await predict(monitor, traffic.records(500, fibre=0.95)[0])
    await evaluate(monitor)
    await predict(monitor, traffic.records(250, start=900, fibre=0.95)[0])
    await evaluate(monitor)
    standing = (await monitor.get("/alerts", params={"state": "open"})).json()["alerts"]
    drift = next(a for a in standing if a["name"] == "ModelInputDrift")
    assert drift["count"] == 2
    past = {"until": (monitor.clock.now() - timedelta(hours=1)).isoformat()}
    assert (await monitor.post(f"/alerts/{drift['id']}/snooze", json=past)).status_code == 422
    until = {"until": (monitor.clock.now() + timedelta(hours=1)).isoformat()}
    async with monitor.database.transaction() as tx:
        await monitors.note_namespace(tx, "churn", "Production")
    asked.clear()
    assert (await monitor.post(f"/alerts/{drift['id']}/acknowledge")).json()["state"] == "acknowledged"
    assert (await monitor.post(f"/alerts/{drift['id']}/snooze", json=until)).json()["state"] == "snoozed"
    assert (await monitor.post(f"/alerts/{drift['id']}/resolve")).json()["state"] == "resolved"
    verbs = ("drift:alert.acknowledge", "drift:alert.snooze", "drift:alert.write")
    assert asked == [(verb, "endpoints/churn", "Production") for verb in verbs], "where its endpoint answers"
    assert (await monitor.post(f"/alerts/{drift['id']}/resolve")).status_code in (409, 412)
    assert (await monitor.post("/alerts/none/resolve")).status_code == 404
    assert (await monitor.get("/endpoints/churn/report")).json()["state"] == "ok"
    assert (await decisions(monitor))[0]["reason"] == "drift_without_harm"
