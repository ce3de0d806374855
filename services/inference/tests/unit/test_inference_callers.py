"""What callers say beside their rows, and what they are told of models: time-outs, routing keys, metadata, the log."""

import threading
from typing import Any

import httpx
import pytest
from clave_testing.patience import PATIENCE_S
from structlog.testing import capture_logs

HEADERS = {"authorization": "Bearer good"}
INFER = "/v2/models/churn/infer"


def ask(
    server: Any, *, value: float = 0.25, headers: dict[str, str] | None = None, **parameters: Any
) -> httpx.Response:
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}
    body = {"inputs": [tensor], **({"parameters": parameters} if parameters else {})}
    return httpx.post(server.url + INFER, json=body, headers={**HEADERS, **(headers or {})}, timeout=PATIENCE_S)


def test_a_timeout_that_passes_while_waiting_is_told_and_not_computed(server: Any) -> None:
    assert ask(server).status_code == 200
    table = server.bench.deployment.table
    runs = table.versions[("churn", 1)].runs
    held = threading.Event()
    charge = server.bench.admissions.charge_now

    def slow(*arguments: Any) -> bool:
        held.wait(0.05)
        return bool(charge(*arguments))

    server.bench.admissions.charge_now = slow
    refused = ask(server, timeout=1000)
    assert (refused.status_code, refused.json()["code"]) == (504, "deadline_passed"), refused.text
    assert ask(server, timeout=5_000_000).status_code == 200
    assert table.versions[("churn", 1)].runs == runs + 1


def test_infer_is_asked_by_post(standing_server: Any) -> None:
    refused = httpx.get(standing_server.url + INFER, headers=HEADERS)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert "POST" in refused.json()["error"]


@pytest.mark.parametrize("wrong", [0, -1, True, "soon", 1e12])
def test_a_timeout_that_makes_no_sense_is_refused(standing_server: Any, wrong: Any) -> None:
    refused = ask(standing_server, timeout=wrong)
    assert refused.status_code == 400
    assert "parameters.timeout" in refused.json()["error"]


def test_a_routing_key_in_header_or_parameters_keeps_its_arm(server: Any) -> None:
    registry = server.bench.registry
    versions = [registry.version(1, server.model(1.0)), registry.version(2, server.model(2.0))]
    registry.want(versions, [(1, "live", 0.5), (2, "canary", 0.5)])
    server.on_loop(server.bench.deployment.step)
    arms: dict[str, set[str]] = {}
    for number in range(12):
        key = f"customer-{number}"
        answers = [ask(server, headers={"x-routing-key": key}) for _ in range(3)]
        answers += [ask(server, routing_key=key), ask(server, routing_key=key, headers={"x-routing-key": "other"})]
        arms[key] = {answer.json()["parameters"]["arm"] for answer in answers}
    assert all(len(seen) == 1 for seen in arms.values()), arms
    assert set.union(*arms.values()) == {"live", "canary"}


def test_a_sampled_request_has_a_line_of_identifiers_and_never_values(server: Any) -> None:
    """Here every request is sampled."""
    with capture_logs() as lines:
        prediction_id = ask(server, value=0.123456).json()["parameters"]["prediction_id"]
        ask(server, value=0.123456, timeout=0)
    written = [line for line in lines if line["event"] == "request"]
    assert [line["code"] for line in written] == ["ok", "invalid_infer_request"]
    assert written[0]["prediction_id"] == prediction_id
    assert written[0]["principal"] == "app:web"
    assert "0.12345" not in repr(written)


def test_metadata_and_errors_under_v2_look_as_clients_expect(server: Any) -> None:
    answer = httpx.get(f"{server.url}/v2/models/churn", headers=HEADERS).json()
    assert answer["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    missing = httpx.get(f"{server.url}/v2/models/nope", headers=HEADERS)
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/json"
    assert "nope" in missing.json()["error"]
    refused = httpx.post(f"{server.url}/v2/repository/models/churn/unload", headers=HEADERS)
    assert refused.status_code == 409
    index = httpx.post(f"{server.url}/v2/repository/index", headers=HEADERS).json()
    assert index == [{"name": "churn", "version": "1", "state": "READY", "reason": ""}]


def test_metadata_say_whether_a_version_is_signed(server: Any) -> None:
    """The registry's word at any moment: a key that is no longer trusted shows without a reload."""
    registry = server.bench.registry
    signed, unsigned = registry.version(1, server.model(1.0)), registry.version(2, server.model(2.0))
    signed.signature_verified = True
    registry.want([signed, unsigned], [(1, "live", 1.0)])
    server.on_loop(server.bench.deployment.step)

    def told(version: int) -> tuple[bool, str]:
        url = f"{server.url}/v2/models/churn/versions/{version}"
        parameters = httpx.get(url, headers=HEADERS).json()["parameters"]
        config = httpx.get(f"{url}/config", headers=HEADERS).json()["parameters"]
        assert parameters["onnx_digest"] in registry.blobs
        return parameters["signature_verified"], config["signature_verified"]["string_value"]

    assert told(1) == (True, "true")
    assert told(2) == (False, "false")
    distrusted = signed.model_copy(update={"signature_verified": False})
    registry.want([distrusted, unsigned], [(1, "live", 1.0)])
    server.on_loop(server.bench.deployment.step)
    assert told(1) == (False, "false")
