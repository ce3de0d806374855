"""How many steps a worker does at once, apart from how Celery hears its bells.

A bell only wakes a slot and is done in microseconds, so Celery's own loop never stands still behind a training run
and keeps its connection to the broker. An awake slot goes on until there is nothing left to claim. A bell that
comes while every slot is busy is remembered, once per class.
"""

import asyncio
from collections.abc import Awaitable, Callable

from clave_common.errors import ClaveError
from clave_common.logs import get_logger

_log = get_logger(__name__)


class Slots:
    """Wakes up to `count` slots; all methods but `hear` belong to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Callable[[str], Awaitable[bool]], count: int) -> None:
        self._loop = loop
        self._answer = answer
        self._free = count
        self._missed: list[str] = []
        self._busy: set[asyncio.Task[None]] = set()

    def hear(self, resource_class: str) -> None:
        """Take a bell from any thread."""
        self._loop.call_soon_threadsafe(self._wake, resource_class)

    def _wake(self, resource_class: str) -> None:
        if self._free == 0:
            if resource_class not in self._missed:
                self._missed.append(resource_class)
            return
        self._free -= 1
        task = self._loop.create_task(self._serve(resource_class))
        self._busy.add(task)
        task.add_done_callback(self._done)

    async def _serve(self, resource_class: str) -> None:
        try:
            while await self._answer(resource_class):
                pass
        except ClaveError as error:  # Postgres is away: the step, still ready, is rung for again
            _log.warning("bell_not_answered", code=error.code)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self._free += 1
        if self._missed:
            self._wake(self._missed.pop(0))

    async def drain(self, seconds: float) -> int:
        """Wait for running steps to end; returns how many had not (their leases will)."""
        if self._busy:
            await asyncio.wait(list(self._busy), timeout=seconds)
        return len(self._busy)
