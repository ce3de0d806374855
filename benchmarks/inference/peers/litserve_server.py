"""LitServe (``litserve_server.py PORT``); its batching and fast queue were measured and are no faster here."""

import sys

import litserve
import numpy as np
from session import load


class Churn(litserve.LitAPI):
    def setup(self, _device: str) -> None:
        self.run = load()

    def decode_request(self, request: dict) -> np.ndarray:
        tensor = request["inputs"][0]
        return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.run(rows)

    def encode_response(self, scores: np.ndarray) -> dict:
        output = {
            "name": "probabilities",
            "shape": list(scores.shape),
            "datatype": "FP32",
            "data": scores.ravel().tolist(),
        }
        return {"model_name": "churn", "outputs": [output]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Churn(api_path="/v2/models/churn/infer"), accelerator="cpu", workers_per_device=1, fast_queue=False
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
