"""Several processes at once, what a window remembers, and what happens to what is broken or gone."""

import asyncio
from datetime import timedelta

import pytest
from clave_common.access import Access
from clave_common.migrations import drift
from clave_monitor.storage.records import Key
from clave_monitor.storage.tables import metadata
from monitor_calls import evaluate, feedback, predict, report, set_policy

pytestmark = pytest.mark.integration
LIVE = Key("churn", "churn", 1)


async def test_the_migrations_make_what_the_tables_say(monitor):
    assert drift(url=monitor.settings.database_url.get_secret_value(), metadata=metadata) == []


async def test_two_processes_evaluate_at_once_and_count_once(monitor, traffic):
    await set_policy(monitor)
    records, outcomes = traffic.records(1500)
    await predict(monitor, records)
    await feedback(monitor, outcomes)
    async with monitor.restarted() as other:
        closed = await asyncio.gather(
            *(one.parts.operations.evaluation.evaluate(LIVE) for one in (monitor, other, monitor, other))
        )
    found = await report(monitor)
    assert sum(closed) == found.windows == 6
    assert (found.rows, found.performance.labels) == (1500, 1500)
    windows = (await monitor.get("/endpoints/churn/windows")).json()["windows"]
    assert [window["number"] for window in windows] == [6, 5, 4, 3, 2, 1]


async def test_predictions_and_outcomes_that_race_always_meet(monitor, traffic):
    records, outcomes = traffic.records(400)
    async with monitor.restarted() as other:
        await asyncio.gather(
            *(predict(monitor, records[i : i + 20]) for i in range(0, 80, 20)),
            *(feedback(other, outcomes[i : i + 100]) for i in range(0, 400, 100)),
        )
    page = (await monitor.get("/endpoints/churn/labelled", params={"page_size": 1000})).json()
    assert len(page["rows"]) == 400


async def test_a_window_remembers_performance_and_fairness_of_its_time(monitor, traffic):
    await set_policy(monitor)
    for start in (0, 1000):
        records, outcomes = traffic.records(500, start=start)
        await predict(monitor, records)
        await feedback(monitor, outcomes)
        await evaluate(monitor)
    windows = (await monitor.get("/endpoints/churn/windows")).json()["windows"]
    remembered = [window["result"] for window in windows if "performance" in window["result"]]
    assert [result["performance"]["labels"] for result in remembered] == [1000, 500]
    assert set(remembered[0]["fairness"]["female"]["gaps"]) >= {"selection_rate", "true_positive_rate"}


async def test_a_record_that_does_not_fit_its_columns_is_passed_over(monitor, traffic):
    await set_policy(monitor)
    records, _ = traffic.records(300)
    records[3].values[0].pop()
    await predict(monitor, records)
    await evaluate(monitor)
    assert (await report(monitor)).rows == 295
    assert "clave_monitor_malformed_batches_total 1.0" in (await monitor.get("http://monitor/metrics")).text


async def test_alerts_of_a_version_that_left_are_resolved(monitor, traffic):
    await set_policy(monitor)
    await predict(monitor, traffic.records(500, fibre=0.95)[0])
    await evaluate(monitor)
    assert (await monitor.get("/alerts", params={"state": "open"})).json()["alerts"]
    await predict(monitor, traffic.records(5, version=2, at=monitor.clock.now() + timedelta(hours=1))[0])
    await monitor.parts.operations.evaluation.reconsider()
    assert (await monitor.get("/alerts", params={"state": "open"})).json()["alerts"] == []


async def test_a_list_of_alerts_shows_the_endpoints_that_its_caller_may_read(monitor, traffic, monkeypatch):
    await set_policy(monitor)
    await predict(monitor, traffic.records(500, fibre=0.95)[0])
    await evaluate(monitor)
    for resources, seen in [
        (["**"], True),
        (["endpoints/**"], True),
        (["endpoints/other", "endpoints/churn"], True),
        (["endpoints/other", "endpoints/churn/**", "models/**"], False),
        ([], False),
    ]:

        async def narrowed(_access, _caller, _action, resources=resources):
            return [{"tenant": "default", "namespaces": ["*"], "resources": resources}]

        monkeypatch.setattr(Access, "visible", narrowed)
        page = (await monitor.get("/alerts")).json()
        assert bool(page["alerts"]) is seen, resources


async def test_a_partial_window_closes_after_its_time_or_on_demand(monitor, traffic):
    await set_policy(monitor, window_s_max=3600)
    await predict(monitor, traffic.records(60)[0])
    await evaluate(monitor)
    assert (await report(monitor)).windows == 0
    monitor.clock.at += timedelta(hours=2)
    await evaluate(monitor)
    assert (await report(monitor)).windows == 1
    await predict(monitor, traffic.records(40, start=500, at=monitor.clock.now())[0])
    answer = await monitor.post("/endpoints/churn/evaluate")
    assert answer.json() == {"windows": 1}
