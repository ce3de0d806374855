"""KServe's own clients, unmodified, against a running clave (``kserve_client.py HTTP_URL GRPC_ADDRESS KEY``).

Run in KServe's environment. Prints one JSON line: the scores that each client read of the same row.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


def request(rows: np.ndarray, *, binary: bool) -> InferRequest:
    tensor = InferInput("input", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(model_name="churn", infer_inputs=[tensor], request_id="mine")


def scores(answer: object) -> list[float]:
    assert answer.id == "mine", answer
    output = next(one for one in answer.outputs if one.name == "probabilities")
    return output.as_numpy().astype(np.float32).ravel().tolist()


async def main(url: str, address: str, key: str, columns: int) -> None:
    rows = np.linspace(-1, 1, columns, dtype=np.float32).reshape(1, columns)
    headers = {"authorization": f"Bearer {key}"}  # its client writes into the headers that it is given
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await rest.is_server_live(url)
    assert await rest.is_server_ready(url)
    assert await rest.is_model_ready(url, "churn", headers=dict(headers))
    found = {}
    for name, binary in (("rest", False), ("rest, binary", True)):
        answer = await rest.infer(url, request(rows, binary=binary), headers=dict(headers), model_name="churn")
        found[name] = scores(answer)
    try:
        await rest.infer(url, request(rows[:, :1], binary=False), headers=dict(headers), model_name="churn")
    except Exception as refusal:  # noqa: BLE001  whatever the client raises, its text counts
        said = str(refusal)
    else:
        said = "answered"
    assert "shape" in said, f"a row of one column: {said}"
    grpc = InferenceGRPCClient(address)
    metadata = [("authorization", f"Bearer {key}")]
    assert await grpc.is_server_ready(headers=metadata)
    found["grpc"] = scores(await grpc.infer(request(rows, binary=True), headers=metadata))
    print(json.dumps(found))
    if len({json.dumps(one) for one in found.values()}) > 1:
        raise SystemExit(f"the clients read different scores: {found}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
