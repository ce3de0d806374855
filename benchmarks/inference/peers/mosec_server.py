"""mosec, tuned: batches of 64 within 1 ms, msgspec for JSON. POST /inference; flags as of mosec."""

import msgspec
import numpy as np
from mosec import Server, Worker
from session import load


class Batched(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.run = load()

    def deserialize(self, data: bytes) -> np.ndarray:
        tensor = msgspec.json.decode(data)["inputs"][0]
        return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])

    def serialize(self, scores: np.ndarray) -> bytes:
        output = {
            "name": "probabilities",
            "shape": list(scores.shape),
            "datatype": "FP32",
            "data": scores.ravel().tolist(),
        }
        return msgspec.json.encode({"model_name": "churn", "outputs": [output]})

    def forward(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        scores = self.run(np.concatenate(inputs))
        return [scores[i : i + 1] for i in range(len(inputs))]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Batched, num=1, max_batch_size=64, max_wait_time=1)
    server.run()
