"""MLServer with a runtime of its own on the same session."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from session import load


class Ort(MLModel):
    async def load(self) -> bool:
        self.run = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        scores = self.run(NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False))
        output = NumpyCodec.encode_output("probabilities", scores)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
