"""The real process: real clients, real policy, real Valkey; faults of every peer."""

import json
import subprocess
import sys
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from clave_common.access.api_keys import new_api_key
from clave_contracts.events import PREDICTION_STREAM, PredictionRecord
from clave_contracts.prediction_batches import documents
from clave_testing.patience import BUSY_S, PATIENCE_S, wait_until
from redis import Redis

pytestmark = pytest.mark.integration
BODY = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}]}


def ask(service: Any, body: Any = BODY, **options: Any) -> httpx.Response:
    return httpx.post(
        f"{service.url}/v2/models/churn/infer", json=body, headers=service.headers, timeout=PATIENCE_S, **options
    )


def records(url: str) -> list[PredictionRecord]:
    with Redis.from_url(url) as redis:
        entries = redis.xrange(PREDICTION_STREAM)
    return [PredictionRecord.model_validate(item) for _, fields in entries for item in documents(fields[b"body"])]


def test_a_prediction_is_governed_answered_and_recorded(service: Any, redis_url: str) -> None:
    answer = ask(service)
    assert answer.status_code == 200, answer.text
    prediction_id = answer.json()["parameters"]["prediction_id"]
    wait_until(lambda: bool(records(redis_url)), what="a record on the stream")
    record = records(redis_url)[0]
    assert record.id == prediction_id
    assert record.principal == "app:scoring"
    assert record.score == pytest.approx([1 / (1 + np.exp(-1.0))], abs=1e-6)
    assert httpx.post(f"{service.url}/v2/models/churn/infer", json=BODY).status_code == 401
    assert service.peers.observed
    assert "clave_inference_duration_seconds_count" in httpx.get(f"{service.url}/metrics").text


def test_entities_are_answered_from_the_online_store(service: Any) -> None:
    service.peers.features["7"] = [1.0, 1.0, 1.0, 1.0]
    answer = ask(service, {"parameters": {"entities": {"customer_id": [7, 8]}}}).json()
    assert answer["outputs"][0]["data"][1] == pytest.approx(1 / (1 + np.exp(-4.0)), abs=1e-6)
    assert answer["parameters"]["feature_status"] == {"customers": ["PRESENT", "NOT_FOUND"]}


TRITON = """
import asyncio, json, sys
import numpy as np
import tritonclient.http as http, tritonclient.grpc as grpc
import tritonclient.http.aio as http_aio, tritonclient.grpc.aio as grpc_aio
http_url, grpc_url, key = sys.argv[1:4]
class Fresh(dict):  # the HTTP client writes into the headers it is given
    pass
fresh = lambda: Fresh(authorization="Bearer " + key)
rows = np.array([[0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1]], np.float32)
results = {}
for name, module, url in (("http", http, http_url), ("grpc", grpc, grpc_url)):
    client = module.InferenceServerClient(url)
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("churn", headers=fresh())
    metadata = client.get_model_metadata("churn", headers=fresh())
    config = client.get_model_config("churn", headers=fresh())
    client.get_server_metadata(headers=fresh())
    client.get_model_repository_index(headers=fresh())
    client.get_inference_statistics("churn", headers=fresh())
    tensor = module.InferInput("input", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    result = client.infer("churn", [tensor], headers=fresh(), request_id="r1")
    assert (result.get_response()["id"] if name == "http" else result.get_response().id) == "r1"
    results[name] = result.as_numpy("probabilities").tolist()
    wanted = [module.InferRequestedOutput("probabilities")]
    again = client.infer("churn", [tensor], headers=fresh(), outputs=wanted, model_version="1")
    assert again.as_numpy("probabilities").tolist() == results[name]
    try:
        client.infer("nope", [tensor], headers=fresh())
    except module.InferenceServerException as error:
        assert "nope" in str(error), error
    else:
        raise SystemExit("an unknown model was answered")
tensor = http.InferInput("input", rows.shape, "FP32"); tensor.set_data_from_numpy(rows, binary_data=False)
plain = http.InferenceServerClient(http_url).infer(
    "churn", [tensor], headers=fresh(), outputs=[http.InferRequestedOutput("probabilities", binary_data=False)],
    request_compression_algorithm="gzip")
results["json"] = plain.as_numpy("probabilities").tolist()
async def later():
    for name, module, url in (("http_aio", http_aio, http_url), ("grpc_aio", grpc_aio, grpc_url)):
        client = module.InferenceServerClient(url)
        tensor = (http if name == "http_aio" else grpc).InferInput("input", rows.shape, "FP32")
        tensor.set_data_from_numpy(rows)
        results[name] = (await client.infer("churn", [tensor], headers=fresh())).as_numpy("probabilities").tolist()
        await client.close()
asyncio.run(later())
print(json.dumps(results))
"""


def test_tritons_clients_work_unmodified_and_agree(service: Any) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            TRITON,
            f"127.0.0.1:{service.http_port}",
            f"127.0.0.1:{service.grpc_port}",
            service.peers.key.text,
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert set(results) == {"http", "grpc", "json", "http_aio", "grpc_aio"}
    first = results.pop("http")
    assert all(other == first for other in results.values())


def test_a_new_version_takes_over_and_back(service: Any, redis_url: str) -> None:
    peers = service.peers
    from inference_models import sum_model, sum_signature

    second = peers.add_version(2, {"model.onnx": sum_model(2.0)}, sum_signature())
    first = peers.desired.versions[0]
    peers.want([first, second], [(1, "live", 0.5), (2, "canary", 0.5)])

    def arms() -> set[str]:
        return {ask(service).json()["parameters"]["arm"] for _ in range(20)}

    wait_until(lambda: arms() == {"live", "canary"}, what="the canary taking traffic")
    sticky = {
        ask(service, {**BODY, "parameters": {"routing_key": "customer-1"}}).json()["model_version"] for _ in range(10)
    }
    assert len(sticky) == 1
    failures: list[int] = []
    stop = threading.Event()

    def hammer() -> None:
        with httpx.Client(base_url=service.url, headers=service.headers) as client:
            while not stop.is_set():
                status = client.post("/v2/models/churn/infer", json=BODY).status_code
                if status != 200:
                    failures.append(status)

    thread = threading.Thread(target=hammer)
    thread.start()
    peers.want([first, second], [(2, "live", 1.0)])
    with Redis.from_url(redis_url) as redis:
        redis.xadd("clave.events.registry", {"id": "evt_1", "body": "{}"})
    wait_until(lambda: ask(service).json()["model_version"] == "2", what="version 2 answering")
    peers.want([first, second], [(1, "live", 1.0)])
    wait_until(lambda: ask(service).json()["model_version"] == "1", what="version 1 answering again")
    stop.set()
    thread.join(PATIENCE_S)
    assert not failures


def test_a_bad_version_takes_no_traffic(service: Any) -> None:
    from inference_models import sum_signature

    peers = service.peers
    bad = peers.add_version(3, {"model.onnx": b"not a model"}, sum_signature())
    peers.want([peers.desired.versions[0], bad], [(1, "live", 0.5), (3, "canary", 0.5)])
    wait_until(
        lambda: any(
            version["state"] == "failed" for report in peers.observed.values() for version in report["versions"]
        ),
        what="the report of the bad version",
    )
    assert {ask(service).json()["model_version"] for _ in range(20)} == {"1"}
    assert service.is_ready()


def test_a_revoked_key_stops(service: Any) -> None:
    assert ask(service).status_code == 200
    service.peers.revoke()
    wait_until(lambda: ask(service).status_code == 401, what="the refusal", seconds=BUSY_S)


def test_it_starts_and_serves_with_every_peer_away(service: Any, running_peers: Any) -> None:
    """Registry, gateway, feature service, Redis and OPA; it has no Postgres."""
    assert ask(service).status_code == 200
    wait_until((service_data(service) / "access-snapshot.json").exists, what="the snapshot on disk")
    running_peers.__exit__()
    assert ask(service).status_code == 200
    service.stop()
    service.variables["CLAVE_INFERENCE_REDIS_URL"] = "unix:///nowhere/redis.sock?db=0"
    service.variables["CLAVE_OPA_URL"] = "http://127.0.0.1:9"
    service.start()
    answers = [ask(service).status_code for _ in range(3)]
    assert answers == [200, 200, 200]
    refused = ask(service, {"parameters": {"entities": {"customer_id": [7]}}})
    assert (refused.status_code, refused.json()["code"]) == (503, "features_unavailable")
    stranger = {"authorization": f"Bearer {new_api_key().text}"}
    assert httpx.post(f"{service.url}/v2/models/churn/infer", json=BODY, headers=stranger).status_code == 401
    wait_until(lambda: (service_data(service) / "spool/predictions-0.log").stat().st_size > 0, what="the spool")


def service_data(service: Any) -> Any:
    from pathlib import Path

    return Path(service.variables["CLAVE_INFERENCE_DATA_DIR"])


def test_spooled_predictions_follow_when_redis_is_back(service: Any, redis_url: str) -> None:
    service.stop()
    right = service.variables["CLAVE_INFERENCE_REDIS_URL"]
    service.variables["CLAVE_INFERENCE_REDIS_URL"] = "unix:///nowhere/redis.sock?db=0"
    service.start()
    wanted = {ask(service).json()["parameters"]["prediction_id"] for _ in range(5)}
    service.stop()
    service.variables["CLAVE_INFERENCE_REDIS_URL"] = right
    service.start()
    wait_until(lambda: wanted <= {record.id for record in records(redis_url)}, what="the spooled records")
