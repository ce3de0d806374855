"""Keeps a real OPA server loaded with the policy in force, also after the server lost its memory.

Only the gateway writes to OPA. Data and modules carry the digest of what was loaded; whenever the server no longer
repeats it, everything is loaded again.
"""

import asyncio
from collections.abc import Callable

from clave_common.access.opa_engine import OpaEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import Snapshot
from clave_common.background import Background

LOOP_NAME = "opa"
_CHECK_S = 1.0


class PublishingOpaEngine(OpaEngine):
    """The gateway's OPA engine: loading a bundle means publishing it."""

    async def load(self, bundle: PolicyBundle) -> None:
        """Publish a bundle to the server."""
        await self.publish(bundle)


class OpaPublisher:
    """Watches the server and loads it again when needed."""

    def __init__(self, engine: OpaEngine, snapshot: Callable[[], Snapshot | None]) -> None:
        self._engine = engine
        self._snapshot = snapshot

    async def run(self, background: Background) -> None:
        """Watch until cancelled."""
        while True:
            snapshot = self._snapshot()
            if snapshot is not None and not await self._engine.holds(snapshot.bundle):
                await self._engine.publish(snapshot.bundle)
            background.healthy(LOOP_NAME)
            await asyncio.sleep(_CHECK_S)
