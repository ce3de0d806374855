"""Ray Serve (``ray_server.py PORT``), tuned: serve.batch of 64 within 1 ms, 256 ongoing requests, a plain Response."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

HERE = str(Path(__file__).resolve().parent)


def loaded():
    sys.path.insert(0, HERE)
    from session import load  # noqa: PLC0415  the replica has its own path

    return load()


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
class Batched:
    def __init__(self) -> None:
        self.run = loaded()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def rows(self, inputs):
        scores = self.run(np.concatenate(inputs))
        return [scores[i : i + 1] for i in range(len(scores))]

    async def __call__(self, request: Request) -> Response:
        tensor = json.loads(await request.body())["inputs"][0]
        scores = await self.rows(np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"]))
        output = {
            "name": "probabilities",
            "shape": list(scores.shape),
            "datatype": "FP32",
            "data": scores.ravel().tolist(),
        }
        return Response(json.dumps({"model_name": "churn", "outputs": [output]}), media_type="application/json")


if __name__ == "__main__":
    environment = {"env_vars": {"MODEL": os.environ["MODEL"]}}
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=tempfile.mkdtemp(prefix="ray-"),
        object_store_memory=100 * 2**20,
        runtime_env=environment,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Batched.bind(), route_prefix="/", name="churn")
    while True:
        time.sleep(1)
