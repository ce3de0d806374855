"""A worker's queue that strangers filled: nothing of it ends the worker, and bells are heard among it."""

import base64
import json

import pytest
import redis
from clave_testing.patience import wait_until
from clave_trainer.doorbell import DOORBELL, SET_ASIDE
from clave_trainer.runtime.bell_transport import SET_ASIDE_MAX

pytestmark = pytest.mark.integration
QUEUE = "clave.celery.trainer.light"
KEPT = f"clave.celery.{SET_ASIDE}"
PROPERTIES = {"delivery_tag": "1", "delivery_info": {"exchange": "", "routing_key": "x"}, "body_encoding": "base64"}


def message(**changes: object) -> bytes:
    body = base64.b64encode(b"[[], {}, {}]").decode()
    whole = {"body": body, "headers": {"task": DOORBELL, "id": "1"}, "properties": PROPERTIES, **changes}
    return json.dumps(whole).encode()


NO_BELLS = [
    message(headers={"task": "os.system", "secret": "hunter2"}),
    b"not json",
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"7",
    b"[]",
    b"[" * 50_000,
    b'{"__type__": "uuid", "__value__": "x"}',
    b'{"body": "e30=", "properties": {}}',
    message(headers=None),
    message(headers=["task"]),
    message(headers={"task": "celery.backend_cleanup"}),
    b'"' + b"x" * 20_000_000 + b'"',
]
# A bell by its name is one, whatever a stranger wrote beside it: nothing of that is read.
ODD_BELLS = [
    message(properties=None),
    message(properties={"delivery_tag": {"a": 1}, "delivery_info": None}),
    message(body="%%% no base64"),
    message(body=7, **{"content-type": ["application/x-python-serialize"]}),
    message(headers={"task": DOORBELL, "id": ["a"], "expires": 7, "eta": {}, "retries": "x", "compression": "zzz"}),
]


async def test_a_worker_hears_bells_among_whatever_lies_in_its_queue(trainer, redis_url) -> None:
    worker = trainer.start_worker()
    with redis.from_url(redis_url) as store:
        store.lpush(QUEUE, *NO_BELLS, *ODD_BELLS, message())
        wait_until(lambda: store.llen(QUEUE) == 0, what="an empty queue")
        assert store.llen(KEPT) == len(NO_BELLS)
        assert max(len(item) for item in store.lrange(KEPT, 0, -1)) <= 1024
        store.lpush(QUEUE, *(b"no bell %d" % number for number in range(2 * SET_ASIDE_MAX)))
        run = await trainer.start_run(roll_out=False)
        await trainer.until(run.id, lambda found: found.steps[0].state != "pending", what="a step that began")
        newest = b"no bell %d" % (2 * SET_ASIDE_MAX - 1)
        wait_until(
            lambda: (store.llen(QUEUE), store.lindex(KEPT, 0), store.llen(KEPT)) == (0, newest, SET_ASIDE_MAX),
            what="an empty queue, and the newest items set aside",
        )
    assert worker.poll() is None
    log = next(trainer.settings.data_dir.glob("worker-0.log")).read_text()
    told = [json.loads(line) for line in log.splitlines() if "queue_item_set_aside" in line]
    assert {each["why"] for each in told} == {"no_json", "no_message", "another_task", "too_large"}
    assert len(told) == 10
    assert "hunter2" not in log
    assert "no bell" not in log
    assert "Traceback" not in log
