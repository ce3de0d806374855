"""Calls that the monitor's integration tests share."""

import orjson
from clave_common.outbox import OutboxRelay
from clave_common.streams import Entry
from clave_contracts.events import Event, event_stream
from clave_contracts.monitor import Report

POLICY = {
    "window_rows": 250,
    "loss_tolerance": 0.02,
    "harm_false_alarm_labels": 1000,
    "labels_min": 200,
    "cool_down_s": 600,
}


def entry(body, name="b1"):
    return Entry("s", b"1-0", name, orjson.dumps(body))


async def predict(monitor, records):
    await monitor.parts.predictions.handle([entry([r.model_dump(mode="json") for r in records])])


async def evaluate(monitor):
    for key in await monitor.parts.operations.evaluation.due():
        await monitor.parts.operations.evaluation.evaluate(key)


async def feedback(monitor, outcomes):
    response = await monitor.post("/feedback", json={"items": outcomes})
    assert response.status_code == 200, response.text
    return response.json()


async def report(monitor, **params):
    response = await monitor.get("/endpoints/churn/report", params=params)
    assert response.status_code == 200, response.text
    return Report.model_validate(response.json())


async def decisions(monitor):
    return (await monitor.get("/endpoints/churn/decisions")).json()["decisions"]


async def events(monitor):
    relay = OutboxRelay(monitor.database, monitor.redis, None)
    while await relay.relay_once():
        pass
    found = await monitor.redis.xrange(event_stream("monitor"))
    return [Event.model_validate_json(fields[b"body"]) for _, fields in found]


async def set_policy(monitor, **changes):
    response = await monitor.put("/endpoints/churn/policy", json=POLICY | changes)
    assert response.status_code == 200, response.text
