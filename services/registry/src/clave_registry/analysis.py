"""Asks the monitor how a challenger does; no answer is an answer the rollout can wait with."""

from datetime import datetime
from typing import Any

from clave_common.logs import get_logger
from clave_contracts.monitor import MonitorClient
from clave_contracts.problems import ServiceProblem

from clave_registry.domain.rollout import Analysis, Verdict
from clave_registry.services.rollouts import AnalysisSource

_log = get_logger(__name__)


class MonitorAnalysis(AnalysisSource):
    """The monitor's comparison of two versions."""

    def __init__(self, client: MonitorClient) -> None:
        self._client = client
        self._away = False

    async def analysis(
        self, *, endpoint: str, challenger: int, champion: int | None, since: datetime
    ) -> tuple[Analysis, dict[str, Any]] | None:
        """Ask the monitor; None while it is away or refuses."""
        try:
            answer = await self._client.analysis(
                endpoint=endpoint, challenger=challenger, champion=champion, since=since
            )
        except ServiceProblem as problem:
            if not self._away:
                _log.warning("analysis_unavailable", endpoint=endpoint, code=problem.code, status=problem.status)
            self._away = True
            return None
        self._away = False
        verdict = Analysis(Verdict(answer.verdict), rows=answer.challenger.rows, reasons=tuple(answer.reasons))
        return verdict, answer.model_dump(mode="json")
