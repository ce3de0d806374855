"""Joins the requests that arrive together into one run, without ever waiting for more.

Everything that arrived in one pass of the event loop becomes one run per (session, outputs): scheduled by `call_soon`,
no timer. A single request runs at once on the next turn. Requests were validated before they came here; if a joint run
fails all the same, every request of it runs alone and only the guilty one fails.

Large work moves off the loop: where rows x measured microseconds per row passes `inline_us_max`, the run goes to a
one-thread executor, and the loop keeps answering health checks and small requests.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clave_inference.domain.errors import DeadlinePassed, Overloaded

Arrays = Sequence[NDArray[Any]]
Finish = Callable[[Arrays | None, Exception | None], None]
"""Called once per request: the outputs of its rows, or the error that befell it."""


class Runnable(Protocol):
    """What the batcher runs: a model version with a fixed order of inputs."""

    us_per_row: float
    runs: int

    def run(self, output_names: list[str], feeds: Arrays) -> list[NDArray[Any]]:
        """Compute the outputs of some rows, or raise."""
        ...


@dataclass(slots=True)
class Waiting:
    """A request in the queue."""

    model: Runnable
    output_names: tuple[str, ...]
    feeds: Arrays
    rows: int
    deadline: float
    finish: Finish


class Batcher:
    """The queue of one process.

    Args:
        rows_per_run_max: Rows joined into one run at most.
        queued_rows_max: Rows that may wait; beyond, requests are refused.
        inline_us_max: Longest run in microseconds that may hold the event loop.
        executor: One thread for everything longer.
        on_batch: Told the rows of every run.
    """

    def __init__(
        self,
        *,
        rows_per_run_max: int,
        queued_rows_max: int,
        inline_us_max: float,
        executor: Executor,
        on_batch: Callable[[int], None] = lambda _rows: None,
    ) -> None:
        self._rows_per_run_max = rows_per_run_max
        self._queued_rows_max = queued_rows_max
        self._inline_us_max = inline_us_max
        self._executor = executor
        self._waiting: list[Waiting] = []
        self._scheduled = False
        self.queued_rows = 0
        self.in_flight = 0
        self._on_batch = on_batch

    def submit(self, request: Waiting, *, joins_rows: bool = True) -> None:
        """Queue a request; its `finish` is called once, later.

        Raises:
            Overloaded: Too many rows wait.
        """
        if self.queued_rows + request.rows > self._queued_rows_max and self.queued_rows:
            raise Overloaded(self.queued_rows, self._queued_rows_max)
        self.queued_rows += request.rows
        self.in_flight += 1
        if not joins_rows or request.rows >= self._rows_per_run_max:
            asyncio.get_running_loop().call_soon(self._run, [request])
            return
        self._waiting.append(request)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        waiting, self._waiting, self._scheduled = self._waiting, [], False
        if len(waiting) == 1:
            self._run(waiting)
            return
        groups: dict[tuple[int, tuple[str, ...]], list[Waiting]] = {}
        for request in waiting:
            groups.setdefault((id(request.model), request.output_names), []).append(request)
        for group in groups.values():
            for part in self._parts(group):
                self._run(part)

    def _parts(self, group: list[Waiting]) -> list[list[Waiting]]:
        parts: list[list[Waiting]] = []
        rows = self._rows_per_run_max
        for request in group:
            if rows + request.rows > self._rows_per_run_max:
                parts.append([])
                rows = 0
            parts[-1].append(request)
            rows += request.rows
        return parts

    def _run(self, part: list[Waiting]) -> None:
        now = time.monotonic()
        ready = part
        if any(request.deadline < now for request in part):
            ready = [request for request in part if request.deadline >= now]
            for request in part:
                if request.deadline < now:
                    self._finish(request, None, DeadlinePassed())
            if not ready:
                return
        rows = sum(request.rows for request in ready)
        model = ready[0].model
        if rows * model.us_per_row <= self._inline_us_max:
            self._scatter(ready, *_compute(ready))
            return
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, _compute, ready)
        future.add_done_callback(lambda done: self._scatter_from_executor(ready, done))

    def _scatter_from_executor(
        self, part: list[Waiting], done: asyncio.Future[tuple[list[NDArray[Any]] | None, Exception | None]]
    ) -> None:
        error = done.exception()
        if error is not None:
            for request in part:
                self._finish(request, None, RuntimeError("the executor failed"))
            raise error
        self._scatter(part, *done.result())

    def _scatter(self, part: list[Waiting], outputs: list[NDArray[Any]] | None, error: Exception | None) -> None:
        if outputs is None:
            if len(part) == 1:
                self._finish(part[0], None, error)
                return
            for request in part:  # find the guilty one
                alone, fault = _compute([request])
                self._finish(request, alone, fault)
            return
        if len(part) == 1:
            self._on_batch(part[0].rows)
            self._finish(part[0], outputs, None)
            return
        start = 0
        for request in part:
            end = start + request.rows
            self._finish(request, [output[start:end] for output in outputs], None)
            start = end
        self._on_batch(start)

    def _finish(self, request: Waiting, outputs: Arrays | None, error: Exception | None) -> None:
        self.queued_rows -= request.rows
        self.in_flight -= 1
        request.finish(outputs, error)


class RowsNotKept(Exception):
    """A model gave another number of rows than it was fed: its outputs cannot be handed back to callers."""


def _compute(part: list[Waiting]) -> tuple[list[NDArray[Any]] | None, Exception | None]:
    """Run a part as one; gives outputs or the error, never raises what a model may raise."""
    first = part[0]
    model = first.model
    began = time.perf_counter()
    try:
        if len(part) == 1:
            rows = first.rows
            outputs = model.run(list(first.output_names), first.feeds)
        else:
            rows = sum(request.rows for request in part)
            feeds = [np.concatenate(columns) for columns in zip(*(r.feeds for r in part), strict=True)]
            outputs = model.run(list(first.output_names), feeds)
            if any(output.shape[0] != rows for output in outputs):
                return None, RowsNotKept(f"{rows} rows in, shapes {[o.shape for o in outputs]} out")
    except Exception as error:  # noqa: BLE001  entry point of foreign code: the error goes to its own caller
        return None, error
    us_per_row = (time.perf_counter() - began) * 1e6 / rows
    model.us_per_row += 0.05 * (us_per_row - model.us_per_row)
    model.runs += 1
    return outputs, None
