"""The shortest way answers as the ordinary one does, and hands on whatever it must not decide."""

import asyncio
import gc
import itertools
import json
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
import uvicorn
from clave_common.access.model import Caller, RateLimit
from clave_common.errors import Unauthenticated
from clave_inference.codecs.rest_forms import RowForm, learn
from clave_inference.lane import Lane, lane_for
from clave_inference.runtime.loaded_version import RowShape
from clave_inference.services.call import Call
from clave_testing.patience import PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st

ROW = RowShape("input", "FP32", [1, 4], 4, np.dtype(np.float32), ((2,),))
VALUES = [0.5, -1.0, 2.0, 4.0]


def body(values: list[Any], **more: Any) -> bytes:
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": values}
    return json.dumps({"inputs": [tensor], **more}).encode()


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Connections:
    """Some connections to one process, asked together, and how many requests went the ordinary way."""

    def __init__(self, bench: Any) -> None:
        config = uvicorn.Config(bench.app, lifespan="off", log_config=None)
        config.load()
        state = uvicorn.server.ServerState()
        kind = lane_for(bench.predictions)
        self._make: Callable[[], Lane] = lambda: kind(config=config, server_state=state, app_state={})  # type: ignore[assignment]
        self.lanes: list[tuple[Lane, Transport]] = []
        self.ordinary = 0
        predict = bench.predictions.predict

        def counted(call: Call, answered: Any) -> None:
            self.ordinary += 1
            predict(call, answered)

        bench.predictions.predict = counted

    async def ask(
        self, *bodies: bytes, keys: Sequence[str] = ("good",), wait: bool = True
    ) -> list[tuple[int, dict[str, Any]]]:
        """Send every body over a connection of its own, all in one pass of the loop."""
        while len(self.lanes) < len(bodies):
            lane, transport = self._make(), Transport()
            lane.connection_made(transport)  # type: ignore[arg-type]  # the part of a transport that is used
            self.lanes.append((lane, transport))
        used = self.lanes[: len(bodies)]
        for (lane, transport), content, key in zip(used, bodies, itertools.cycle(keys), strict=False):
            transport.written.clear()
            lane.data_received(
                b"POST /v2/models/churn/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n"
                b"authorization: Bearer %b\r\n\r\n%b" % (len(content), key.encode(), content)
            )
        if not wait:
            return []
        await until(lambda: all(transport.written for _, transport in used))
        return [answer_of(transport) for _, transport in used]

    async def warm(self, *bodies: bytes) -> None:
        """Let heads, admissions and forms be learned."""
        for _ in range(3):
            await self.ask(*bodies)
        self.ordinary = 0


async def until(condition: Callable[[], object]) -> None:
    """Let the loop go on until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  the loop itself is what is waited for
            await asyncio.sleep(0)


def answer_of(transport: Transport) -> tuple[int, dict[str, Any]]:
    head, _, content = b"".join(transport.written).partition(b"\r\n\r\n")
    return int(head.split()[1]), orjson.loads(content)


def score(answer: dict[str, Any]) -> float:
    return float({output["name"]: output["data"] for output in answer["outputs"]}["probabilities"][1])


def expected(values: list[float]) -> float:
    return float(1 / (1 + np.exp(-sum(values))))


@pytest.fixture
async def connections(bench: Any) -> Connections:
    await bench.deployment.step()
    return Connections(bench)


async def test_a_row_answered_the_short_way_is_answered_and_recorded_as_any_other(
    bench: Any, connections: Connections
) -> None:
    ((status, first),) = await connections.ask(body(VALUES))
    await connections.warm(body(VALUES))
    ((again, last),) = await connections.ask(body(VALUES))
    assert connections.ordinary == 0
    assert (status, again) == (200, 200)
    one, other = first["parameters"].pop("prediction_id"), last["parameters"].pop("prediction_id")
    assert one != other
    assert first == last
    await bench.log.flush()
    records = {record["id"]: record for record in bench.stream.records()}
    assert records[other]["latency_ms"] < 5_000
    for name in ("id", "at", "latency_ms"):
        records[one].pop(name)
        records[other].pop(name)
    assert records[one] == records[other]
    assert records[other]["values"] == [VALUES]


async def test_every_connection_gets_its_own_row_and_bad_neighbours_their_own_words(connections: Connections) -> None:
    rows = [[float(number), 0.0, 0.0, -1.0] for number in range(9)]
    await connections.warm(*map(body, rows))
    bad = [body([1, 2, 3]), body(["a", 2, 3, 4]), body([1e39, 0, 0, 0]), body(VALUES)[:-1] + b"]"]
    answers = await connections.ask(*map(body, rows[:4]), *bad, body(VALUES, id="mine"), body([None] * 4))
    assert [status for status, _ in answers] == [200] * 4 + [400] * 4 + [200] * 2
    for (_, answer), row in zip(answers[:4], rows, strict=False):
        assert score(answer) == pytest.approx(expected(row), abs=1e-6)
    assert "outside the range" in answers[6][1]["error"]
    assert answers[8][1]["id"] == "mine"
    assert score(answers[9][1]) == 0.5


async def test_a_limit_is_kept_row_by_row(bench: Any, connections: Connections) -> None:
    bench.point.limit = RateLimit(per_minute=60.0, burst=12.0)
    await connections.warm(*[body(VALUES)] * 2)  # six rows are gone
    answers = await connections.ask(*[body(VALUES)] * 9)
    statuses = [status for status, _ in answers]
    assert statuses.count(200) == 6
    assert statuses.count(429) == 3


async def test_a_tier_of_nothing_a_minute_is_no_limit(bench: Any, connections: Connections) -> None:
    bench.point.limit = RateLimit(per_minute=0.0, burst=0.0)
    await connections.warm(body(VALUES))
    answers = await connections.ask(*[body(VALUES)] * 9)
    assert {status for status, _ in answers} == {200}


async def test_a_lease_too_small_for_all_serves_those_it_can(bench: Any, connections: Connections) -> None:
    bench.point.limit = RateLimit(per_minute=60_000.0, burst=1_000.0)
    await connections.warm(*[body(VALUES)] * 4)
    (budget,) = bench.admissions._budgets.values()
    budget.left = 3.0
    answers = await connections.ask(*[body(VALUES)] * 4)
    assert {status for status, _ in answers} == {200}
    assert connections.ordinary == 4


async def test_rows_of_several_callers_are_charged_to_each(bench: Any, connections: Connections) -> None:
    bench.point.limit = RateLimit(per_minute=60_000.0, burst=1_000.0)

    async def anybody(presented: Any) -> Caller:
        name = presented.authorization.split()[1]
        return Caller(f"app:{name}", "app", "default", "api_key", time.time() + 3600, key_id=name)

    bench.verifier.verify = anybody
    keys = ["a", "b", "a"]
    for _ in range(3):
        await connections.ask(*[body(VALUES)] * 3, keys=keys)
    connections.ordinary = 0
    budgets = {key.split(":")[1]: budget for key, budget in bench.admissions._budgets.items()}
    before = {name: budget.left for name, budget in budgets.items()}
    await connections.ask(*[body(VALUES)] * 3, keys=keys)
    assert {name: before[name] - budget.left for name, budget in budgets.items()} == {"a": 2, "b": 1}
    assert connections.ordinary == 0
    budgets["b"].left = 0.0
    answers = await connections.ask(*[body(VALUES)] * 3, keys=keys)
    assert {status for status, _ in answers} == {200}
    assert before["a"] - budgets["a"].left == 4


async def test_a_run_that_fails_is_charged_once_and_fails_only_the_guilty(bench: Any, connections: Connections) -> None:
    bench.point.limit = RateLimit(per_minute=60_000.0, burst=1_000.0)
    await connections.warm(*[body(VALUES)] * 3)
    loaded = bench.deployment.table.versions[("churn", 1)]
    real = loaded.session.run

    def run(names: Any, feeds: Any) -> Any:
        if feeds[0].min() < -50:
            raise ValueError("broken")
        return real(names, feeds)

    loaded.session.run = run
    (budget,) = bench.admissions._budgets.values()
    before = budget.left
    answers = await connections.ask(body(VALUES), body([-99.0, 0.0, 0.0, 0.0]), body(VALUES))
    assert [status for status, _ in answers] == [200, 500, 200]
    assert before - budget.left == 3


async def test_a_fault_of_our_own_leaves_nobody_without_an_answer(bench: Any, connections: Connections) -> None:
    await connections.warm(*[body(VALUES)] * 3)
    faults = [OSError("broken")]

    def told(_admission: Any, _now: float) -> bytes:
        if faults:
            raise faults.pop()
        return b""

    bench.admissions.limit_headers = told
    answers = await connections.ask(*[body(VALUES)] * 3)
    assert {status for status, _ in answers} == {200}
    assert connections.ordinary == 3


async def test_a_key_that_was_withdrawn_is_refused_at_once(bench: Any, connections: Connections) -> None:
    await connections.warm(body(VALUES))

    async def refuse(_presented: Any) -> None:
        raise Unauthenticated("gone", code="invalid_credential")

    bench.verifier.verify = refuse
    bench.admissions.forget()
    ((status, _),) = await connections.ask(body(VALUES))
    assert status == 401


async def test_another_key_behind_the_same_bytes_is_another_caller(connections: Connections) -> None:
    await connections.warm(body(VALUES))
    ((status, _),) = await connections.ask(body(VALUES), keys=["evil"])
    assert status == 401


async def test_an_admission_is_renewed_beside_the_traffic(bench: Any, connections: Connections) -> None:
    await connections.warm(body(VALUES))
    (admission,) = bench.admissions._admissions.values()
    admission.renew_at = time.monotonic() - 0.1
    asked = len(bench.point.calls)
    ((status, _),) = await connections.ask(body(VALUES))
    await until(lambda: len(bench.point.calls) > asked)
    assert status == 200
    assert connections.ordinary == 0


async def test_traffic_follows_the_table_and_shares_and_shadows_take_the_ordinary_way(
    bench: Any, connections: Connections, models: Any
) -> None:
    await connections.warm(body(VALUES))
    first, second = bench.registry.state.versions[0], bench.registry.version(2, models(2.0))
    bench.registry.want([first, second], [(2, "live", 1.0)])
    await bench.deployment.step()
    await connections.warm(body(VALUES))
    ((_, answer),) = await connections.ask(body(VALUES))
    assert (answer["model_version"], connections.ordinary) == ("2", 0)
    for routes in ([(1, "live", 0.5), (2, "canary", 0.5)], [(1, "live", 1.0), (2, "shadow", 0.0)]):
        bench.registry.want([first, second], routes)
        await bench.deployment.step()
        await connections.warm(body(VALUES))
        ((status, _),) = await connections.ask(body(VALUES))
        assert (status, connections.ordinary) == (200, 1)


async def test_what_is_remembered_of_requests_keeps_no_old_version_in_memory(
    bench: Any, connections: Connections, models: Any
) -> None:
    await connections.warm(body(VALUES))
    session = weakref.ref(bench.deployment.table.versions[("churn", 1)].session)
    bench.registry.want([bench.registry.version(2, models(2.0))], [(2, "live", 1.0)])
    await bench.deployment.step()
    gc.collect()
    assert session() is None


async def test_a_request_in_flight_when_the_process_ends_is_answered_and_told_so(connections: Connections) -> None:
    await connections.warm(body(VALUES))
    await connections.ask(body(VALUES), wait=False)
    lane, transport = connections.lanes[0]
    lane.shutdown()
    await until(lambda: transport.closed)
    assert b"connection: close" in b"".join(transport.written)
    assert answer_of(transport)[0] == 200


async def test_more_rows_than_a_run_takes_are_several_runs(bench: Any, connections: Connections) -> None:
    bench.batcher.rows_per_run_max = 4
    await connections.warm(*[body(VALUES)] * 6)
    answers = await connections.ask(*[body(VALUES)] * 6)
    assert {status for status, _ in answers} == {200}
    assert connections.ordinary == 0


NUMBERS = st.one_of(st.none(), st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-9, 9))


@given(st.lists(NUMBERS, min_size=4, max_size=4), st.sampled_from(["", " ", "\n"]))
def test_a_form_reads_what_the_general_decoder_reads(values: list[float | None], space: str) -> None:
    form = learn(body(VALUES), ROW)
    assert isinstance(form, RowForm)
    start, end = body(VALUES).split(orjson.dumps(VALUES).replace(b",", b", "))
    data = b"HEAD" + start + space.encode() + json.dumps(values).encode() + space.encode() + end
    row = form.row(data, 4)
    assert row is not None
    np.testing.assert_array_equal(np.frombuffer(row, np.float32), np.array(values, np.float32))


@pytest.mark.parametrize(
    "content",
    [
        body(VALUES, id="x"),
        body(VALUES, parameters={}),
        body(VALUES, outputs=[]),
        body(VALUES[:3]),
        b'{"x": [0.5, -1.0, 2.0, 4.0], ' + body(VALUES)[1:],
        b'{"inputs": [], ' + body(VALUES)[1:],
        b"{" + b'"x": "' + b"y" * 2000 + b'", ' + body(VALUES)[1:],
        b"not json",
    ],
)
def test_only_a_plain_row_has_a_form(content: bytes) -> None:
    form = learn(content, ROW)
    if form is not None:  # a repeated member: the last one counts, as it does for the general decoder
        assert form.row(content, 0) == ROW.packed(VALUES)


@pytest.mark.parametrize(
    "list_text",
    [
        b"[1,2,3]",
        b"[1,2,3,4,5]",
        b"[[1,2,3,4]]",
        b'["1",2,3,4]',
        b"[1,2,3,4],[1]",
        b"[1,2,3,4]]}],",
        b"",
        b"1",
        b"[1,2,3,NaN]",
    ],
)
def test_what_is_no_list_of_as_many_numbers_is_left_to_the_general_decoder(list_text: bytes) -> None:
    content = body(VALUES)
    form = learn(content, ROW)
    assert form is not None
    numbers = orjson.dumps(VALUES).replace(b",", b", ")
    assert form.row(content.replace(numbers, list_text), 0) is None
