"""Goes on deciding while the OPA server is away, by the same policy on the engine in this process.

The policy and its data are in the signed access snapshot that every service holds; where OPA does not answer, the
embedded engine reads the same Rego. A test matrix holds both engines to the same answers. The embedded engine's memory
is taken when it is first needed.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from clave_common.access.engine import EmbeddedEngine, PolicyEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.errors import Unavailable
from clave_common.logs import get_logger

_log = get_logger(__name__)
_ASK_AGAIN_S: Final = 1.0


class OutageEngine:
    """OPA first, the embedded engine while OPA is away.

    Args:
        server: The engine that asks OPA.

    Attributes:
        name: Which of them answered last.
    """

    def __init__(self, server: PolicyEngine, *, now: Callable[[], float] = time.monotonic) -> None:
        self.name = server.name
        self._server = server
        self._own: EmbeddedEngine | None = None
        self._bundle: PolicyBundle | None = None
        self._now = now
        self._away_until = 0.0

    async def load(self, bundle: PolicyBundle) -> None:
        """Switch to a bundle."""
        self._bundle, self._own = bundle, None
        await self._server.load(bundle)

    async def decide(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a question."""
        if self._now() >= self._away_until:
            try:
                document = await self._server.decide(question)
            except Unavailable as reason:
                self._note_absence(reason)
            else:
                self.name = self._server.name
                return document
        return await self._embedded().decide(question)

    async def visible(self, question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Answer which rows of a list are visible."""
        if self._now() >= self._away_until:
            try:
                return await self._server.visible(question)
            except Unavailable as reason:
                self._note_absence(reason)
        return await self._embedded().visible(question)

    def _note_absence(self, reason: Unavailable) -> None:
        if self.name == self._server.name:
            _log.warning("policy_server_away", detail=reason.detail)
        self._away_until = self._now() + _ASK_AGAIN_S

    def _embedded(self) -> EmbeddedEngine:
        """Give the engine in this process.

        Raises:
            Unavailable: No policy is at hand.
        """
        if self._own is None:
            self._own = EmbeddedEngine()
            if self._bundle is not None:
                self._own.use(self._bundle)
        self.name = self._own.name
        return self._own
