"""Loops that a service runs beside its API: relays, watchers, controllers.

A loop that raises is logged once, waits (with back-off) and starts again; a service without one of its loops is not
ready.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from clave_common.logs import get_logger

_log = get_logger(__name__)
Loop = Callable[[], Awaitable[None]]
_CANCEL_AGAIN_S = 0.5


class Background:
    """Runs named loops until the service stops."""

    def __init__(self, *, backoff_s_max: float = 10.0) -> None:
        self._backoff_s_max = backoff_s_max
        self._loops: dict[str, Loop] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.failing: dict[str, str] = {}

    def add(self, name: str, loop: Loop) -> None:
        """Register a loop: an async function that runs until it is cancelled."""
        self._loops[name] = loop

    async def __aenter__(self) -> Self:
        for name, loop in self._loops.items():
            self._tasks.append(asyncio.create_task(self._keep(name, loop), name=name))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A database driver may swallow a cancellation that arrives while it settles a query; so it is repeated.
        waiting = set(self._tasks)
        while waiting:
            for task in waiting:
                task.cancel()
            _, waiting = await asyncio.wait(waiting, timeout=_CANCEL_AGAIN_S)

    async def _keep(self, name: str, loop: Loop) -> None:
        wait_s = 0.2
        clock = asyncio.get_running_loop()
        while True:
            started = clock.time()
            try:
                await loop()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - an entry point: a loop must outlive its faults
                if clock.time() - started > self._backoff_s_max:
                    wait_s = 0.2
                if name not in self.failing:
                    _log.warning("background_loop_failed", loop=name, exc_info=error)
                self.failing[name] = type(error).__name__
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, self._backoff_s_max)

    def healthy(self, name: str) -> None:
        """Note that a loop got through a round (loops call it to clear an earlier fault)."""
        if self.failing.pop(name, None) is not None:
            _log.info("background_loop_recovered", loop=name)
