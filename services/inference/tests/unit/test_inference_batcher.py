"""Requests that arrive together share a run, and nothing else: neither rows, nor faults."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from clave_inference.domain.errors import DeadlinePassed, Overloaded
from clave_inference.runtime.batcher import Batcher
from clave_testing.patience import PATIENCE_S
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass
class Doubler:
    """A model that doubles its rows and fails on negative ones."""

    us_per_row: float = 1.0
    runs: int = 0
    joins_rows: bool = True
    row: None = None
    sizes: list[int] = field(default_factory=list)

    def run(self, _names: Any, feeds: Any) -> list[np.ndarray]:
        self.sizes.append(len(feeds[0]))
        if (feeds[0] < 0).any():
            raise ValueError("negative")
        return [feeds[0] * 2]


NAMES = ("out",)


@dataclass
class Request:
    runnable: Doubler
    values: list[float]
    deadline: float | None = None
    output_names: tuple[str, ...] = NAMES
    outcome: list[Any] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def feeds(self) -> tuple[np.ndarray, ...]:
        return (np.array(self.values).reshape(-1, 1),)

    def finish(self, outputs: Any, error: Exception | None) -> None:
        self.outcome.append((outputs, error))


def batcher(**changes: Any) -> Batcher:
    settings = {"rows_per_run_max": 8, "queued_rows_max": 100, "inline_us_max": 1e6, **changes}
    return Batcher(executor=ThreadPoolExecutor(1), **settings)


async def turn(requests: list[Request]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(not request.outcome for request in requests):
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-2, 100), min_size=1, max_size=10), min_size=1, max_size=12), st.booleans())
async def test_everybody_gets_their_own_rows_and_only_the_guilty_fail(batches: list[list[float]], off: bool) -> None:
    model, other = Doubler(), Doubler()
    queue = batcher(inline_us_max=0.0 if off else 1e6, queued_rows_max=1000)
    requests = [Request(model if i % 3 else other, values) for i, values in enumerate(batches)]
    for request in requests:
        queue.submit(request)
    await turn(requests)
    for request in requests:
        assert len(request.outcome) == 1
        outputs, error = request.outcome[0]
        if min(request.values) < 0:
            assert isinstance(error, ValueError)
        else:
            assert outputs[0].ravel().tolist() == [value * 2 for value in request.values]
    assert queue.queued_rows == queue.in_flight == 0


async def test_what_arrives_together_runs_together() -> None:
    model, queue = Doubler(), batcher()
    requests = [Request(model, [1.0]) for _ in range(8)]
    for request in requests:
        queue.submit(request)
    await turn(requests)
    assert model.sizes == [8]


async def test_runs_stay_below_their_limit() -> None:
    model, queue = Doubler(), batcher()
    requests = [Request(model, [1.0] * 3) for _ in range(5)]
    for request in requests:
        queue.submit(request)
    await turn(requests)
    assert model.sizes == [6, 6, 3]


async def test_models_that_do_not_count_rows_run_alone() -> None:
    model, queue = Doubler(joins_rows=False), batcher()
    requests = [Request(model, [1.0]) for _ in range(3)]
    for request in requests:
        queue.submit(request)
    await turn(requests)
    assert model.sizes == [1, 1, 1]


async def test_a_full_queue_refuses_and_a_large_request_alone_passes() -> None:
    model, queue = Doubler(), batcher(queued_rows_max=4)
    large = Request(model, [1.0] * 9)
    queue.submit(large)
    with pytest.raises(Overloaded) as refusal:
        queue.submit(Request(model, [1.0]))
    assert refusal.value.retry_after_s
    await turn([large])
    queue.submit(again := Request(model, [1.0]))
    await turn([again])


async def test_a_request_whose_time_is_over_is_not_computed() -> None:
    model, queue = Doubler(), batcher()
    late, early = Request(model, [1.0], deadline=time.monotonic() - 1), Request(model, [2.0])
    queue.submit(late)
    queue.submit(early)
    await turn([late, early])
    assert isinstance(late.outcome[0][1], DeadlinePassed)
    assert early.outcome[0][0][0].tolist() == [[4.0]]
    assert model.sizes == [1]


class Shrinker(Doubler):
    def run(self, names: Any, feeds: Any) -> list[np.ndarray]:
        return [output[:1] for output in super().run(names, feeds)]


async def test_a_model_that_loses_rows_never_mixes_callers_up() -> None:
    model, queue = Shrinker(), batcher()
    requests = [Request(model, [float(i)]) for i in range(3)]
    for request in requests:
        queue.submit(request)
    await turn(requests)
    assert [request.outcome[0][0][0].tolist() for request in requests] == [[[0.0]], [[2.0]], [[4.0]]]
