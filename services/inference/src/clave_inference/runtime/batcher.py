"""Joins the requests that arrive together into one run, without ever waiting for more.

Everything that arrived in one pass of the event loop becomes one run per (model version, outputs): scheduled by
`call_soon`, no timer. A single request runs on the loop's next turn. Requests were validated before they came here; if
a joint run fails all the same, every request of it runs alone and only the guilty one fails.

Large work moves off the loop: where rows x measured microseconds per row passes `inline_us_max`, the run goes to a
one-thread executor, and the loop keeps answering health checks and small requests.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clave_inference.domain.errors import DeadlinePassed, Overloaded

Arrays = Sequence[NDArray[Any]]
_SMOOTHING = 0.05


class Runnable(Protocol):
    """What the batcher runs: a model version with a fixed order of inputs."""

    us_per_row: float
    runs: int
    joins_rows: bool

    def run(self, output_names: Sequence[str], feeds: Arrays) -> list[NDArray[Any]]:
        """Compute the outputs of some rows, or raise."""
        ...


class Waiting(Protocol):
    """A request in the queue."""

    @property
    def runnable(self) -> Runnable:
        """What computes it."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """What it wants computed."""
        ...

    @property
    def feeds(self) -> tuple[NDArray[Any], ...]:
        """Its rows, one array per input."""
        ...

    @property
    def rows(self) -> int:
        """How many they are."""
        ...

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds after which it is not worth computing."""
        ...

    def finish(self, outputs: Arrays | None, error: Exception | None) -> None:
        """Take the outputs of its rows, or the error that befell it; called once."""
        ...


Outcome = tuple[list[NDArray[Any]] | None, Exception | None]


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
        self._on_batch = on_batch
        self._waiting: list[Waiting] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.queued_rows = 0
        self.in_flight = 0

    def submit(self, request: Waiting) -> None:
        """Queue a request; its `finish` is called once, later.

        Raises:
            Overloaded: Too many rows wait.
        """
        rows = request.rows
        if self.queued_rows + rows > self._queued_rows_max and self.queued_rows:
            raise Overloaded(self.queued_rows, self._queued_rows_max)
        self.queued_rows += rows
        self.in_flight += 1
        waiting = self._waiting
        waiting.append(request)
        if len(waiting) == 1:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        first = waiting[0]
        runnable, names = first.runnable, first.output_names
        rows = 0
        for request in waiting:
            rows += request.rows
            if request.runnable is not runnable or request.output_names is not names:
                break
        else:
            if len(waiting) == 1 or (rows <= self._rows_per_run_max and runnable.joins_rows):
                self._run(waiting)
                return
        for part in self._parts(waiting):
            self._run(part)

    def _parts(self, waiting: list[Waiting]) -> list[list[Waiting]]:
        """Divide a mixed or large queue into runs."""
        groups: dict[tuple[int, tuple[str, ...]], list[Waiting]] = {}
        parts: list[list[Waiting]] = []
        for request in waiting:
            if request.runnable.joins_rows:
                groups.setdefault((id(request.runnable), request.output_names), []).append(request)
            else:
                parts.append([request])
        for group in groups.values():
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
        rows, late = 0, False
        for request in part:
            rows += request.rows
            if request.deadline is not None and request.deadline < now:
                late = True
        if late:
            self._run_those_in_time(part, now)
            return
        if rows * part[0].runnable.us_per_row <= self._inline_us_max:
            self._scatter(part, compute(part, now))
            return
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, compute, part, now)
        future.add_done_callback(lambda done: self._scatter_from_executor(part, done))

    def _run_those_in_time(self, part: list[Waiting], now: float) -> None:
        ready: list[Waiting] = []
        for request in part:
            if request.deadline is not None and request.deadline < now:
                self._finish(request, None, DeadlinePassed())
            else:
                ready.append(request)
        if ready:
            self._run(ready)

    def _scatter_from_executor(self, part: list[Waiting], done: asyncio.Future[Outcome]) -> None:
        if done.cancelled() or done.exception() is not None:  # the process is about to end
            for request in part:
                self._finish(request, None, DeadlinePassed())
            return
        self._scatter(part, done.result())

    def _scatter(self, part: list[Waiting], outcome: Outcome) -> None:
        outputs, error = outcome
        if len(part) == 1:
            self._on_batch(part[0].rows)
            self._finish(part[0], outputs, error)
            return
        if outputs is None:
            for request in part:  # find the guilty one
                self._finish(request, *compute([request], time.monotonic()))
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


def compute(part: list[Waiting], began: float) -> Outcome:
    """Run a part as one; gives outputs or the error, never raises what a model may raise."""
    first = part[0]
    runnable = first.runnable
    try:
        if len(part) == 1:
            rows = first.rows
            outputs = runnable.run(first.output_names, first.feeds)
        else:
            if len(first.feeds) == 1:
                feeds = [np.concatenate([request.feeds[0] for request in part])]
            else:
                columns = zip(*(request.feeds for request in part), strict=True)
                feeds = [np.concatenate(arrays) for arrays in columns]
            rows = sum(request.rows for request in part)
            outputs = runnable.run(first.output_names, feeds)
            for output in outputs:
                if output.shape[0] != rows:
                    return None, RowsNotKept(f"{rows} rows in, shape {output.shape} out")
    except Exception as error:  # noqa: BLE001  entry point of foreign code: the error goes to its own caller
        return None, error
    runnable.us_per_row += _SMOOTHING * ((time.monotonic() - began) * 1e6 / rows - runnable.us_per_row)
    runnable.runs += 1
    return outputs, None
