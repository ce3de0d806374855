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
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from clave_inference.domain.errors import DeadlinePassed, Overloaded

Arrays = Sequence[NDArray[Any]]
_SMOOTHING = 0.01  # per row: large runs say more about large runs
_SMOOTHING_MAX = 0.5
_ROWS_MEASURED_MIN = 8  # smaller runs are measured now and then: reading the thread's clock twice costs 1 us
_RUNS_PER_MEASURE = 8
_GROWTH_MAX = 20.0  # one run that the collector of garbage fell into says little


class Runnable(Protocol):
    """What the batcher runs: a model version with a fixed order of inputs."""

    us_per_row: float
    runs: int
    joins_rows: bool

    @property
    def row(self) -> "Row | None":
        """What requests of a single plain row bring, where the model takes them."""
        ...

    def run(self, output_names: Sequence[str], feeds: Arrays) -> list[NDArray[Any]]:
        """Compute the outputs of some rows, or raise."""
        ...


class Row(Protocol):
    """A plain row."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What its values become."""
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
    def values(self) -> bytes | None:
        """Its single row as the model takes it, where it is a plain one; then `feeds` is the same as an array."""
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


class Run(NamedTuple):
    """What came of a run: outputs, or the error.

    Attributes:
        feeds: What was fed, one array per input of the model; rows in the order of the requests.
    """

    feeds: Arrays
    outputs: list[NDArray[Any]] | None
    error: Exception | None = None


def deliver_each(part: Sequence[Waiting], run: Run) -> None:
    """Hand every request of a run its own rows."""
    outputs = run.outputs
    if outputs is None or len(part) == 1:
        part[0].finish(outputs, run.error)
        return
    start = 0
    for request in part:
        end = start + request.rows
        request.finish([output[start:end] for output in outputs], None)
        start = end


class Batcher:
    """The queue of one process.

    Args:
        rows_per_run_max: Rows joined into one run at most.
        queued_rows_max: Rows that may wait; beyond, requests are refused.
        inline_us_max: Longest run in microseconds that may hold the event loop.
        executor: One thread for everything longer.
        on_batch: Told the rows of every run.

    Attributes:
        deliver: Takes the requests of a run that went well, and what came of it.
        rows_per_run_max: As above.
        on_batch: As above.
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
        self.rows_per_run_max = rows_per_run_max
        self._queued_rows_max = queued_rows_max
        self._inline_us_max = inline_us_max
        self._executor = executor
        self.on_batch = on_batch
        self._waiting: list[Waiting] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.deliver: Callable[[list[Any], Run], None] = deliver_each
        self.queued_rows = 0
        self.in_flight = 0

    def submit(self, request: Waiting) -> None:
        """Queue a request; its `finish` is called once, later.

        Raises:
            Overloaded: Too many rows wait.
        """
        queued = self.queued_rows + request.rows
        if queued > self._queued_rows_max and self.queued_rows:
            raise Overloaded(self.queued_rows, self._queued_rows_max)
        self.queued_rows = queued
        waiting = self._waiting
        if not waiting:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._flush)
        waiting.append(request)
        self.in_flight += 1

    def runs_at_once(self, runnable: Runnable, rows: int) -> bool:
        """Whether some rows may run on the event loop now: neither long by themselves nor behind too many."""
        return rows * runnable.us_per_row <= self._inline_us_max and self.queued_rows + rows <= self._queued_rows_max

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        now = time.monotonic()
        first = waiting[0]
        runnable, names = first.runnable, first.output_names
        rows, late, alike = 0, False, True
        for request in waiting:
            rows += request.rows
            deadline = request.deadline
            if deadline is not None and deadline < now:
                late = True
            if request.runnable is not runnable or request.output_names is not names:
                alike = False
        if late:
            waiting = self._those_in_time(waiting, now)
        elif len(waiting) == 1 or (alike and rows <= self.rows_per_run_max and runnable.joins_rows):
            self._run(waiting, rows)
            return
        for part in self._parts(waiting):
            self._run(part, sum(request.rows for request in part))

    def _those_in_time(self, waiting: list[Waiting], now: float) -> list[Waiting]:
        ready: list[Waiting] = []
        for request in waiting:
            if request.deadline is not None and request.deadline < now:
                self._release(1, request.rows)
                request.finish(None, DeadlinePassed())
            else:
                ready.append(request)
        return ready

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
            rows = self.rows_per_run_max
            for request in group:
                if rows + request.rows > self.rows_per_run_max:
                    parts.append([])
                    rows = 0
                parts[-1].append(request)
                rows += request.rows
        return parts

    def _run(self, part: list[Waiting], rows: int) -> None:
        if rows * part[0].runnable.us_per_row <= self._inline_us_max:
            self._scatter(part, compute(part))
            return
        future = asyncio.get_running_loop().run_in_executor(self._executor, compute, part)
        future.add_done_callback(lambda done: self._scatter_from_executor(part, done))

    def _scatter_from_executor(self, part: list[Waiting], done: asyncio.Future[Run]) -> None:
        if done.cancelled() or done.exception() is not None:  # the process is about to end
            for request in part:
                self._release(1, request.rows)
                request.finish(None, DeadlinePassed())
            return
        self._scatter(part, done.result())

    def _scatter(self, part: list[Waiting], run: Run) -> None:
        if run.outputs is None:
            for request in part:  # find the guilty one
                alone = run if len(part) == 1 else compute([request])
                self._release(1, request.rows)
                if alone.outputs is None:
                    request.finish(None, alone.error)
                else:
                    self.deliver([request], alone)
            return
        rows = 0
        for request in part:
            rows += request.rows
        self._release(len(part), rows)
        self.deliver(part, run)
        self.on_batch(rows)

    def _release(self, requests: int, rows: int) -> None:
        self.queued_rows -= rows
        self.in_flight -= requests


class RowsNotKept(Exception):
    """A model gave another number of rows than it was fed: its outputs cannot be handed back to callers."""


def joined(part: list[Waiting]) -> Arrays:
    """Put the rows of several requests into one array per input."""
    first = part[0]
    row = first.runnable.row
    if row is not None:
        rows = [request.values for request in part]
        if None not in rows:
            return (np.frombuffer(b"".join(rows), row.dtype).reshape(len(rows), -1),)  # type: ignore[arg-type]  # see above
    if len(part) == 1:
        return first.feeds
    if len(first.feeds) == 1:
        return (np.concatenate([request.feeds[0] for request in part]),)
    return tuple(np.concatenate(arrays) for arrays in zip(*(request.feeds for request in part), strict=True))


def compute(part: list[Waiting]) -> Run:
    """Run a part as one; never raises what a model may raise."""
    first = part[0]
    rows = first.rows if len(part) == 1 else sum([request.rows for request in part])
    try:
        feeds = joined(part)
    except Exception as error:  # noqa: BLE001  see below
        return Run((), None, error)
    run = computed(first.runnable, first.output_names, feeds, rows)
    if len(part) > 1 and run.outputs is not None:
        for output in run.outputs:
            if output.shape[0] != rows:
                return Run(feeds, None, RowsNotKept(f"{rows} rows in, shape {output.shape} out"))
    return run


def computed(runnable: Runnable, output_names: Sequence[str], feeds: Arrays, rows: int) -> Run:
    """Run some rows and note what they cost; never raises what a model may raise."""
    measures = rows >= _ROWS_MEASURED_MIN or not runnable.runs % _RUNS_PER_MEASURE
    began = time.thread_time() if measures else 0.0  # not the wall's: waiting for the processor is not the model's cost
    try:
        outputs = runnable.run(output_names, feeds)
    except Exception as error:  # noqa: BLE001  entry point of foreign code: the error goes to its own caller
        return Run((), None, error)
    runnable.runs += 1
    if measures:
        took_us = min((time.thread_time() - began) * 1e6 / rows, runnable.us_per_row * _GROWTH_MAX)
        runnable.us_per_row += min(_SMOOTHING * rows, _SMOOTHING_MAX) * (took_us - runnable.us_per_row)
    return Run(feeds, outputs)
