"""KServe's Python SDK, tuned by its flags; predict is async, or it would block the loop."""

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from session import load


class Churn(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def load(self) -> bool:
        self.run, self.ready = load(), True
        return True

    async def predict(self, payload: InferRequest, *_headers: object, **_more: object) -> InferResponse:
        scores = self.run(payload.inputs[0].as_numpy().astype(np.float32, copy=False))
        output = InferOutput(name="probabilities", shape=list(scores.shape), datatype="FP32")
        output.set_data_from_numpy(scores, binary_data=False)
        return InferResponse(response_id=payload.id or "1", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    ModelServer().start([Churn("churn")])
