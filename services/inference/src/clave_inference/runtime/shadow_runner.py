"""Runs what shadows see beside the traffic: on a thread of its own, never on the event loop.

Copies that wait while the thread is busy run together, as a caller's requests would. Only so many rows wait; a shadow
that cannot keep up misses copies, and nobody else is any slower for it.
"""

import asyncio
from concurrent.futures import Executor

from clave_inference.domain.errors import Overloaded
from clave_inference.runtime.batcher import Run, Waiting, compute, deliver_each


class ShadowRunner:
    """The queue of all shadows of one process.

    Args:
        rows_per_run_max: Rows joined into one run.
        queued_rows_max: Rows that may wait.
        executor: The thread.
    """

    def __init__(self, *, rows_per_run_max: int, queued_rows_max: int, executor: Executor) -> None:
        self._rows_per_run_max = rows_per_run_max
        self._queued_rows_max = queued_rows_max
        self._executor = executor
        self._waiting: list[Waiting] = []
        self._busy = False
        self.queued_rows = 0

    @property
    def in_flight(self) -> int:
        """Copies that wait, and 1 while some are computed."""
        return len(self._waiting) + self._busy

    def submit(self, copy: Waiting) -> None:
        """Queue a copy; its `finish` is called once, later.

        Raises:
            Overloaded: The shadow cannot keep up.
        """
        if self.queued_rows + copy.rows > self._queued_rows_max:
            raise Overloaded(self.queued_rows, self._queued_rows_max)
        self.queued_rows += copy.rows
        self._waiting.append(copy)
        if not self._busy:
            self._run_next()

    def _run_next(self) -> None:
        part = self._next_part()
        self._busy = bool(part)
        if part:
            future = asyncio.get_running_loop().run_in_executor(self._executor, _compute_apart, part)
            future.add_done_callback(lambda done: self._finish(part, done))

    def _next_part(self) -> list[Waiting]:
        part: list[Waiting] = []
        rows = 0
        for copy in self._waiting:
            if part and (
                copy.runnable is not part[0].runnable
                or not copy.runnable.joins_rows
                or rows + copy.rows > self._rows_per_run_max
            ):
                break
            part.append(copy)
            rows += copy.rows
        del self._waiting[: len(part)]
        return part

    def _finish(self, part: list[Waiting], done: "asyncio.Future[list[tuple[list[Waiting], Run]]]") -> None:
        self.queued_rows -= sum(copy.rows for copy in part)
        self._run_next()
        if not done.cancelled() and done.exception() is None:  # else the process is about to end
            for copies, run in done.result():
                deliver_each(copies, run)


def _compute_apart(part: list[Waiting]) -> list[tuple[list[Waiting], Run]]:
    """Run a part as one; if that fails, every copy alone."""
    run = compute(part)
    if run.outputs is not None or len(part) == 1:
        return [(part, run)]
    return [([copy], compute([copy])) for copy in part]
