"""Attack 19: a valid key that asks for what it may not have, without end. Once a second one is decided all the same."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import grpc
import httpx
import pytest
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.patience import PATIENCE_S, wait_until
from clave_testing.stack import Stack, done

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]
NONE = "/api/registry/v1/models/no-such"


@pytest.fixture(scope="module")
def flooding(stack: Stack) -> Iterator[httpx.Client]:
    """Whoever may read models and nothing else, and has asked for more until the registry holds it back."""
    request = {"name": f"flood-{uuid4().hex[:8]}", "role": "viewer", "scopes": ["registry:model.read"]}
    made = httpx.post(f"{stack.url}/api/gateway/v1/keys", json=request, headers=stack.headers, timeout=PATIENCE_S)
    headers = {"authorization": f"Bearer {done(made)['key']}"}
    with httpx.Client(base_url=stack.services["registry"]["http"], headers=headers, timeout=PATIENCE_S) as client:
        wait_until(lambda: client.get(NONE).status_code == 404, what="the key to be known")  # allowed, not there
        assert client.delete(NONE).status_code == 403
        wait_until(
            lambda: 429 in {client.delete(NONE).status_code for _ in range(100)},
            what="the limit of refusals to be reached",
        )
        yield client


def held_back(refused: Callable[[], object], ask: Callable[[], httpx.Response]) -> httpx.Response:
    """What is answered to whoever is over its limit, however slow this machine: a request that is refused first."""
    answers: list[httpx.Response] = []

    def is_held() -> bool:
        refused()
        answers.append(ask())
        return answers[-1].status_code == 429

    wait_until(is_held, what="to be held back")
    return answers[-1]


def counted(stack: Stack, name: str, label: str = "") -> float:
    """What a counter of the registry's says."""
    lines = httpx.get(stack.services["registry"]["metrics"], timeout=PATIENCE_S).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name) and label in line)


def test_nothing_is_decided_but_what_the_key_may_do(stack: Stack, flooding: httpx.Client) -> None:
    def counts() -> tuple[float, float]:
        return counted(stack, "clave_access_held_back_total"), counted(
            stack, "clave_access_decisions_total", 'action="registry:model.delete",answer="deny"'
        )

    held, decided = counts()
    answers = {flooding.delete(NONE).status_code for _ in range(100)}
    held_after, decided_after = counts()
    assert answers <= {429, 403}
    assert held_after - held > decided_after - decided  # others' tests are refused meanwhile
    assert flooding.get(NONE).status_code == 404  # allowed before, so asked again


def test_every_door_says_so_in_its_own_words(stack: Stack, flooding: httpx.Client) -> None:
    inference = stack.services["inference"]["http"]

    def deletes() -> httpx.Response:
        return flooding.delete(NONE)

    answer = held_back(deletes, deletes)
    assert (answer.json()["code"], answer.json()["limit"]) == ("rate_limited", "refusals")
    assert "clave explain" in answer.json()["detail"]
    assert answer.headers["retry-after"] == "1"
    mlflow = held_back(deletes, lambda: flooding.post("/api/2.0/mlflow/registered-models/create", json={"name": "x"}))
    assert mlflow.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"

    def ready() -> httpx.Response:
        return flooding.get(f"{inference}/v2/models/no-such/ready")

    held_back(ready, ready)  # the count is everybody's
    held_back(ready, lambda: flooding.post(f"{inference}/v2/models/no-such/infer", json={"inputs": []}))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("ModelReady", pb.ModelReadyRequest(name="no-such")),
        ("ModelInfer", pb.ModelInferRequest(model_name="no-such")),
    ],
)
def test_grpc_says_so_too(stack: Stack, flooding: httpx.Client, method: str, message: pb.ModelReadyRequest) -> None:
    metadata = [("authorization", flooding.headers["authorization"])]
    with grpc.insecure_channel(stack.grpc) as channel:

        def answer(name: str, body: bytes) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as caught:
                call = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
                call(body, metadata=metadata, timeout=PATIENCE_S)
            return caught.value.code()

        def is_exhausted() -> bool:
            answer("ModelReady", pb.ModelReadyRequest(name="no-such").SerializeToString())
            return answer(method, message.SerializeToString()) is grpc.StatusCode.RESOURCE_EXHAUSTED

        wait_until(is_exhausted, what=f"{method} to be held back")
