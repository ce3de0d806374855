"""Waking the evaluation when something came, so that it need not poll in haste."""

import asyncio


class WakeUp:
    """A bell between tasks of one process."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Say that something came."""
        self._bell.set()

    async def wait(self, seconds: float) -> None:
        """Wait for the bell, at most so long."""
        try:
            await asyncio.wait_for(self._bell.wait(), seconds)
        except TimeoutError:
            return
        finally:
            self._bell.clear()
