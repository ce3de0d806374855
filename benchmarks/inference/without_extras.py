"""clave without its extras (``without_extras.py MODEL PORT COLUMNS``): lane, batcher and codecs, and nobody asked.

No authentication, no policy, no limit, no log, no metrics: what is left tells what the extras cost.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from clave_common.access.model import Caller
from clave_inference.domain.routing import Arm, ArmRole, Route
from clave_inference.domain.signature import Signature, TensorSpec
from clave_inference.hot_route import HotRoute
from clave_inference.lane import lane_for
from clave_inference.metrics import PredictionMetrics
from clave_inference.runtime.batcher import Batcher
from clave_inference.runtime.loaded_version import load_version
from clave_inference.services.access_log import AccessLog
from clave_inference.services.admissions import Admission
from clave_inference.services.predict import Predictions, PredictLimits
from clave_inference.services.serving import ServedEndpoint, ServingTable, prepared_targets


class OpenDoor:
    """Admits everybody, limits nobody."""

    admission = Admission(Caller("anyone", "app", "default", "none", 0.0), (), None, 0.0, 0.0)

    def known(self, *_: Any) -> Admission:
        return self.admission

    def charge_now(self, *_: Any) -> bool:
        return True

    def limit_headers(self, *_: Any) -> bytes:
        return b""


class NoLog:
    """Records nothing."""

    def add_rows(self, *_: Any, **_named: Any) -> None: ...

    def add(self, *_: Any) -> None: ...


class Idle:
    """Nothing asked for, nothing in flight."""

    in_flight = 0


def main() -> None:
    path, port, columns = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    signature = Signature(
        (TensorSpec("input", "FP32", (-1, columns)),), (TensorSpec("probabilities", "FP32", (-1, 2)),)
    )
    loaded = load_version(
        model="churn", version=1, digest="", path=path, signature=signature, positive_output="probabilities:1"
    )
    route = Route("churn", (Arm(ArmRole.LIVE, "churn", "1", 1.0),))
    endpoints = {"churn": ServedEndpoint("churn", "churn", "Production", "default", route)}
    versions = {("churn", 1): loaded}
    table = ServingTable(
        endpoints=endpoints, versions=versions, known=True, targets=prepared_targets(endpoints, versions)
    )
    parts: dict[str, Any] = {"admissions": OpenDoor(), "log": NoLog(), "features": Idle(), "explainer": Idle()}
    predictions = Predictions(
        table=lambda: table,
        batcher=Batcher(
            rows_per_run_max=128,
            queued_rows_max=16_384,
            inline_us_max=4_000.0,
            executor=ThreadPoolExecutor(1),
        ),
        metrics=PredictionMetrics(),
        limits=PredictLimits(),
        shadows=Idle(),  # type: ignore[arg-type]  # no shadow is ever submitted
        access_log=AccessLog(every=0),
        **parts,
    )

    async def nothing_else(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("this server answers predictions alone")

    uvicorn.run(
        HotRoute(nothing_else, predictions=lambda: predictions, body_bytes_max=1 << 20),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http=lane_for(predictions),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
    )


if __name__ == "__main__":
    main()
