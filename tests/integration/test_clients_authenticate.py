"""tritonclient and curl authenticate at the public port as their users do; MLflow's client has a file of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from clave_testing.patience import PATIENCE_S
from clave_testing.served_models import ROW, serve_model
from clave_testing.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.stack]

TRITON = """
import sys
import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http

address, model, key = sys.argv[1:4]
for module in (http, grpc):
    client = module.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready()
    tensor = module.InferInput("input", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 2, 3]], np.float32))

    def ask(word):
        return client.infer(model, [tensor], headers={"authorization": word} if word else None)

    assert ask("Bearer " + key).as_numpy("score").shape == (1, 1)
    assert client.is_model_ready(model, headers={"authorization": "Bearer " + key})
    for wrong in (None, "Bearer " + key[:-8] + "00000000", "Bearer", "Basic Og=="):
        try:
            ask(wrong)
        except module.InferenceServerException as error:
            assert error.status() in ("401", "StatusCode.UNAUTHENTICATED"), error.status()
            continue
        raise SystemExit(f"{module.__name__} was answered with {wrong!r}")
"""


@dataclass(frozen=True)
class Application:
    """A key that may predict and nothing else, and the model that it asks."""

    key: str
    model: str


@pytest.fixture(scope="module")
def application(stack: Stack) -> Iterator[Application]:
    name = f"clients-{uuid4().hex[:8]}"
    serve_model(stack, name)
    body = {"name": name, "role": "scoring-app"}
    made = httpx.post(f"{stack.url}/api/gateway/v1/keys", json=body, headers=stack.headers, timeout=PATIENCE_S)
    assert made.status_code == 201, made.text
    yield Application(made.json()["key"], name)
    httpx.delete(f"{stack.url}/api/gateway/v1/keys/{made.json()['id']}", headers=stack.headers, timeout=PATIENCE_S)


def test_tritons_clients_authenticate_by_header_and_metadata(stack: Stack, application: Application) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRITON, urlsplit(stack.url).netloc, application.model, application.key],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def curl(*arguments: str) -> tuple[int, str]:
    """Run curl; returns status and body."""
    done = subprocess.run(
        ["curl", "-sS", "-m", "20", "-w", "\\n%{http_code}", *arguments], capture_output=True, text=True, check=True
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_curl_authenticates_by_bearer_and_by_basic(stack: Stack, application: Application) -> None:
    url = f"{stack.url}/v2/models/{application.model}/infer"
    post = ("-H", "content-type: application/json", "-d", json.dumps(ROW), url)
    for credential in (
        ("-H", f"authorization: Bearer {application.key}"),
        ("--oauth2-bearer", application.key),
        ("-u", f"anybody:{application.key}"),
    ):
        status, body = curl(*credential, *post)
        assert (status, json.loads(body)["model_name"]) == (200, application.model)
    for wrong in ((), ("-u", "admin:admin"), ("-u", f"{application.key}:"), ("-H", "authorization: Bearer x")):
        status, body = curl(*wrong, *post)
        assert status == 401, body
        assert json.loads(body)["code"] in {"unauthenticated", "invalid_credential"}
    refused, body = curl("-u", f"anybody:{application.key}", f"{stack.url}/api/gateway/v1/keys")
    assert (refused, json.loads(body)["code"]) == (403, "permission_denied")
