"""BentoML, tuned: async endpoint, no metrics, no access log. POST /predict {"data": [[...]]}."""

import bentoml
import numpy as np
from session import load


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Service:
    def __init__(self) -> None:
        self.run = load()

    @bentoml.api
    async def predict(self, data: np.ndarray) -> np.ndarray:
        return self.run(data.astype(np.float32))
