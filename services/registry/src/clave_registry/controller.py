"""The loop that advances rollouts: one leader by a Postgres advisory lock, on the registry's own clock.

The lock belongs to one database session; a leader that dies or loses its session gives it up, and another registry
takes over at its next try. Correctness does not rest on it: every step is taken under row locks.
"""

import asyncio

from clave_common.background import Background
from clave_common.database import Database
from clave_common.logs import get_logger
from sqlalchemy import text

from clave_registry.services.rollouts import Rollouts

LOOP_NAME = "rollouts"
_LOCK = "clave:registry:rollouts"
_BATCH_MAX = 50
_log = get_logger(__name__)


class RolloutController:
    """Wakes rollouts whose time has come."""

    def __init__(self, database: Database, rollouts: Rollouts, *, tick_s: float) -> None:
        self._database = database
        self._rollouts = rollouts
        self._tick_s = tick_s

    async def run(self, background: Background) -> None:
        """Try to lead, and lead, until cancelled."""
        while True:
            async with self._database.engine.connect() as plain:
                session = await plain.execution_options(isolation_level="AUTOCOMMIT")
                leads = await session.scalar(text("select pg_try_advisory_lock(hashtext(:lock))"), {"lock": _LOCK})
                while leads:
                    await self.tick()
                    background.healthy(LOOP_NAME)
                    await asyncio.sleep(self._tick_s)
                    await session.execute(text("select 1"))  # raises when the session, and with it the lock, is gone
            background.healthy(LOOP_NAME)
            await asyncio.sleep(max(self._tick_s, 1.0))

    async def tick(self) -> int:
        """Advance every rollout that is due, once.

        Returns:
            How many were due.
        """
        due = await self._rollouts.due(limit=_BATCH_MAX)
        for rollout_id in due:
            phase = await self._rollouts.advance(rollout_id)
            if phase is not None and phase.ended:
                _log.info("rollout_ended", rollout_id=rollout_id, phase=phase.value)
        return len(due)
