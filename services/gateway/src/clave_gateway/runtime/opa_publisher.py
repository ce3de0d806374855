"""Keeps a real OPA server loaded with the policy in force, also after the server lost its memory.

Only the gateway writes to OPA. Data and modules carry the digest of what was loaded; whenever the server no longer
repeats it, everything is loaded again.
"""

import asyncio

from clave_common.access.opa_engine import OpaEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.background import Background

LOOP_NAME = "opa"
_CHECK_S = 1.0


class PublishingOpaEngine(OpaEngine):
    """The gateway's OPA engine: loading a bundle means publishing it.

    The bundle that was loaded last is what the server should hold. It is remembered before it is published, so that
    the watcher never puts an older one back while a newer one is on its way.
    """

    def __init__(self, url: str, *, token: str | None = None) -> None:
        super().__init__(url, token=token)
        self._wanted: PolicyBundle | None = None
        self._publishing = asyncio.Lock()

    async def load(self, bundle: PolicyBundle) -> None:
        """Publish a bundle to the server."""
        self._wanted = bundle
        async with self._publishing:
            await self.publish(bundle)

    async def restore(self) -> None:
        """Publish the wanted bundle again if the server has lost it."""
        async with self._publishing:
            if self._wanted is not None and not await self.holds(self._wanted):
                await self.publish(self._wanted)


class OpaPublisher:
    """Watches the server and loads it again when needed."""

    def __init__(self, engine: PublishingOpaEngine) -> None:
        self._engine = engine

    async def run(self, background: Background) -> None:
        """Watch until cancelled."""
        while True:
            await self._engine.restore()
            background.healthy(LOOP_NAME)
            await asyncio.sleep(_CHECK_S)
