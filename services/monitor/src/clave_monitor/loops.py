"""The monitor's own loop: evaluates what is due, as soon as something came."""

from clave_common.background import Background
from clave_common.database import Database
from clave_common.errors import Unavailable
from clave_common.logs import get_logger

from clave_monitor.runtime.metrics import Metrics
from clave_monitor.services.evaluation import Evaluation
from clave_monitor.services.policies import policy_of
from clave_monitor.services.wakeup import WakeUp
from clave_monitor.storage import monitors
from clave_monitor.storage.records import Key

LOOP_NAME = "evaluation"
_log = get_logger(__name__)


class EvaluationLoop:
    """Runs evaluations until cancelled."""

    def __init__(
        self,
        database: Database,
        evaluation: Evaluation,
        metrics: Metrics,
        wake_up: WakeUp,
        *,
        tick_s: float,
    ) -> None:
        self._database = database
        self._evaluation = evaluation
        self._metrics = metrics
        self._wake_up = wake_up
        self._tick_s = tick_s
        self._broken: set[Key] = set()

    async def run(self, background: Background) -> None:
        """Evaluate what is due, then wait for the bell or the tick."""
        await self.show_stored()
        while True:
            for key in await self._evaluation.due():
                await self._evaluate(key)
            await self._evaluation.reconsider()
            background.healthy(LOOP_NAME)
            await self._wake_up.wait(self._tick_s)

    async def _evaluate(self, key: Key) -> None:
        """Evaluate one monitor; whatever is wrong with it must not keep the others waiting."""
        try:
            await self._evaluation.evaluate(key)
        except Unavailable as problem:
            _log.info("evaluation_waits", endpoint=key.endpoint, version=key.model_version, why=problem.code)
        except Exception as error:  # noqa: BLE001 - an entry point: one broken monitor must not stop the others
            if key not in self._broken:
                _log.error("evaluation_failed", endpoint=key.endpoint, version=key.model_version, exc_info=error)
            self._broken.add(key)
        else:
            self._broken.discard(key)

    async def show_stored(self) -> None:
        """Fill the gauges from what was stored before the restart."""
        async with self._database.transaction() as tx:
            endpoints = {row.name: row for row in await monitors.all_endpoints(tx)}
            rows = await monitors.all_monitors(tx)
        for row in rows:
            endpoint = endpoints.get(row.key.endpoint)
            if row.report and endpoint is not None and endpoint.live == row.key:
                period_s = policy_of(endpoint.policy).window_s_max
                self._metrics.show(row.key, row.report, period_s=period_s)
