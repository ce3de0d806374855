"""Attack 14: one tenant's administrator with the ids of another's objects, on every route that takes an id.

Whatever exists must look to it exactly like what does not: the same status, the same words.
"""

import hashlib
import re
from collections.abc import Iterator
from uuid import uuid4

import grpc
import httpx
import pytest
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.patience import PATIENCE_S
from clave_testing.served_models import serve_model, upload, version_request
from clave_testing.stack import Stack, done
from clave_testing.tenants import Rival, fingerprint, make_rival

pytestmark = pytest.mark.stack
PARAMETER = re.compile(r"\{(\w+)\}")
REGISTRY = "/api/registry/v1"
MLFLOW = "/api/2.0/mlflow"
TENANT_SERVICES = ("registry", "gateway", "inference")
# These hold the data of the installation's own tenant; docs/edge.md says so.
ONE_TENANT_SERVICES = ("features", "monitor", "trainer")


@pytest.fixture(scope="module")
def rival(stack: Stack) -> Rival:
    return make_rival(stack)


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def served(stack: Stack) -> str:
    """A model of the first tenant's that predicts."""
    name = f"victim-served-{uuid4().hex[:4]}"
    serve_model(stack, name)
    return name


@pytest.fixture(scope="module")
def owned(owner: httpx.Client) -> dict[str, str]:
    """Ids of real objects of the first tenant, by the parameter that takes them."""
    word = uuid4().hex[:8]
    done(owner.post(f"{REGISTRY}/models", json={"name": f"victim-{word}"}))
    experiment = done(owner.post(f"{MLFLOW}/experiments/create", json={"name": f"victim-{word}"}))["experiment_id"]
    run = done(owner.post(f"{MLFLOW}/runs/create", json={"experiment_id": experiment}))["run"]["info"]["run_id"]
    logged = done(owner.post(f"{MLFLOW}/logged-models", json={"experiment_id": experiment, "name": "victim"}))
    key = done(owner.post("/api/gateway/v1/keys", json={"name": f"victim-{word}", "role": "viewer"}))
    bindings = done(owner.get("/api/gateway/v1/bindings"))["bindings"]
    records = done(owner.get("/api/gateway/v1/audit", params={"page_size": 200}))["records"]
    entries = [record["entry"]["id"] for record in records if "rival" not in record["entry"]["actor"]]
    decisions = done(owner.get("/api/gateway/v1/decisions"))["decisions"]
    return {
        "model": f"victim-{word}",
        "version": "1",
        "experiment_id": experiment,
        "run_id": run,
        "run_uuid": run,
        "model_id": logged["model"]["info"]["model_id"],
        "name": f"victim-{word}",
        "key_id": key["id"],
        "principal_id": key["principal"],
        "binding_id": next(each["id"] for each in bindings if each["subject"] == key["principal"]),
        "entry_id": entries[0] if entries else f"aud_{'0' * 32}",
        "decision_id": decisions[0]["id"],
    }


NOBODYS = {
    "model": "victim-00000000",
    "version": "1",
    "experiment_id": "999999",
    "run_id": "0" * 32,
    "run_uuid": "0" * 32,
    "model_id": "m-" + "0" * 32,
    "name": "victim-00000000",
    "key_id": "0" * 16,
    "principal_id": "app:victim-00000000",
    "binding_id": "bnd_" + "0" * 26,
    "entry_id": "aud_" + "0" * 32,
    "decision_id": "dec_" + "0" * 26,
}


def routes(stack: Stack) -> list[tuple[str, str]]:
    """Every documented route of the tenants' services that names an object, as (method, path)."""
    found = []
    for service in TENANT_SERVICES:
        document = httpx.get(
            f"{stack.services[service]['http']}/api/{service}/v1/openapi.json", timeout=PATIENCE_S
        ).json()
        for path, operations in document["paths"].items():
            names = PARAMETER.findall(path)
            if names and "/policies/" not in path and set(names) <= {*NOBODYS, "alias", "tag_key", "delivery_id"}:
                found += [
                    (method.upper(), path)
                    for method in operations
                    if method in {"get", "put", "patch", "post", "delete"}
                ]
    return found


def filled(path: str, ids: dict[str, str]) -> str:
    return PARAMETER.sub(lambda match: ids.get(match[1], "some"), path)


BODIES = {
    "PATCH": {"description": "taken over"},
    "PUT": {"version": 1},
    "POST": {"reason": "taken over", "comment": "taken over"},
}


def test_no_route_tells_a_rivals_object_from_none_at_all(stack: Stack, rival: Rival, owned: dict[str, str]) -> None:
    every = routes(stack)
    assert len(every) > 35
    own = sorted((text for text in (*owned.values(), *NOBODYS.values()) if len(text) > 5), key=len, reverse=True)
    with httpx.Client(headers=rival.headers, timeout=PATIENCE_S) as client:
        for base in (stack.url, None):
            for method, path in every:
                service = "inference" if path.startswith("/v2") else "gateway" if "gateway" in path else "registry"
                root = base or stack.services[service]["http"]
                answers = [
                    client.request(method, root + filled(path, ids), json=BODIES.get(method))
                    for ids in (owned, NOBODYS)
                ]
                prints = [fingerprint(answer, *own) for answer in answers]
                decisions = [re.sub(r"dec_\w{26}", "*", text) for text in prints]
                assert decisions[0] == decisions[1], (method, path, prints)
                assert answers[0].status_code in {400, 403, 404, 409, 422}, (method, path, prints[0])


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("GET", "experiments/get", ["experiment_id"]),
        ("POST", "experiments/update", ["experiment_id"]),
        ("POST", "experiments/delete", ["experiment_id"]),
        ("GET", "runs/get", ["run_id"]),
        ("POST", "runs/update", ["run_id"]),
        ("POST", "runs/delete", ["run_id"]),
        ("POST", "runs/create", ["experiment_id"]),
        ("GET", "registered-models/get", ["name"]),
        ("PATCH", "registered-models/update", ["name"]),
        ("DELETE", "registered-models/delete", ["name"]),
        ("GET", "model-versions/get", ["name", "version"]),
        ("GET", "model-versions/get-download-uri", ["name", "version"]),
        ("DELETE", "model-versions/delete", ["name", "version"]),
    ],
)
def test_mlflows_routes_do_not_either(
    stack: Stack, rival: Rival, owned: dict[str, str], method: str, path: str, fields: list[str]
) -> None:
    prints = []
    for ids in (owned, NOBODYS):
        values = {field: ids[field] for field in fields}
        answer = httpx.request(
            method,
            f"{stack.url}{MLFLOW}/{path}",
            headers=rival.headers,
            timeout=PATIENCE_S,
            **({"params": values} if method == "GET" else {"json": values}),
        )
        assert 400 <= answer.status_code < 500, answer.text
        prints.append(
            fingerprint(answer, *(text for each in (owned, NOBODYS) for text in each.values() if len(text) > 5))
        )
    assert re.sub(r"\b\d+\b", "*", prints[0]) == re.sub(r"\b\d+\b", "*", prints[1])


def test_a_digest_of_another_tenant_is_one_that_exists_nowhere(
    stack: Stack, rival: Rival, owner: httpx.Client, owned: dict[str, str]
) -> None:
    """Content is stored once and reached by the tenants that sent it: knowing a SHA-256 is not having the bytes."""
    secret = f"bytes of the victim {owned['name']}".encode()
    mine = upload(owner, "notes.txt", secret)
    assert owner.get(f"{REGISTRY}/blobs/{mine['digest']}").content == secret
    taken = {**mine, "path": "model.onnx"}
    digests = (mine["digest"], hashlib.sha256(b"sent by nobody").hexdigest())
    headers = {**rival.headers, "range": "bytes=0-3"}
    for base in (stack.url, stack.services["registry"]["http"]):
        with httpx.Client(base_url=base, headers=rival.headers, timeout=PATIENCE_S) as client:
            name = f"thief-{uuid4().hex[:8]}"
            done(client.post(f"{REGISTRY}/models", json={"name": name}))
            asked = [
                [
                    client.get(f"{REGISTRY}/blobs/{digest}"),
                    client.head(f"{REGISTRY}/blobs/{digest}"),
                    client.get(f"{REGISTRY}/blobs/{digest}", headers=headers),
                    client.post(
                        f"{REGISTRY}/models/{name}/versions", json=version_request([{**taken, "digest": digest}])
                    ),
                    client.put(f"{REGISTRY}/blobs/{digest}", content=b"a guess at the bytes"),
                ]
                for digest in digests
            ]
            prints = [[fingerprint(answer, *digests) for answer in answers] for answers in asked]
            assert prints[0] == prints[1]
            assert [answer.status_code for answer in asked[0]] == [404, 404, 404, 422, 422]
            assert client.get(f"{REGISTRY}/blobs/{mine['digest']}").status_code == 404
    with httpx.Client(base_url=stack.url, headers=rival.headers, timeout=PATIENCE_S) as client:
        upload(client, "notes.txt", secret)
        assert client.get(f"{REGISTRY}/blobs/{mine['digest']}").content == secret, "who has the bytes may have them"


def answer_of(address: str, method: str, model: str, headers: dict[str, str]) -> str:
    """Status and words of a gRPC method's answer about a model, without the model's name."""
    message = {
        "ModelInfer": pb.ModelInferRequest(model_name=model),
        "ModelReady": pb.ModelReadyRequest(name=model),
        "ModelMetadata": pb.ModelMetadataRequest(name=model),
        "ModelConfig": pb.ModelConfigRequest(name=model),
        "ModelStatistics": pb.ModelStatisticsRequest(name=model),
    }[method].SerializeToString()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            answer = call(message, metadata=[("authorization", headers["authorization"])], timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return re.sub(r"dec_\w{26}", "*", f"{error.code()} {error.details()}").replace(model, "*")
    return f"OK {answer!r}"


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_no_method_tells_a_rivals_model_from_none_at_all(stack: Stack, rival: Rival, served: str, method: str) -> None:
    for address in (stack.grpc, stack.services["inference"]["grpc"]):
        real, none = (answer_of(address, method, name, rival.headers) for name in (served, "victim-served-0000"))
        assert real == none, (method, address)
        assert not real.startswith("OK") or method == "ModelReady", real
    assert answer_of(stack.grpc, method, served, stack.headers) != real


LISTS = (
    f"{REGISTRY}/models", f"{REGISTRY}/endpoints", f"{REGISTRY}/webhooks", "/api/gateway/v1/keys",
    "/api/gateway/v1/bindings", "/api/gateway/v1/principals", "/api/gateway/v1/audit", "/api/gateway/v1/audit/export",
    "/api/gateway/v1/decisions", "/v2/models", f"{MLFLOW}/registered-models/search",
    f"{MLFLOW}/experiments/search?max_results=100",
)  # fmt: skip


@pytest.mark.parametrize("path", LISTS)
def test_no_list_shows_anything_of_another_tenant(stack: Stack, rival: Rival, owned: dict[str, str], path: str) -> None:
    answer = httpx.get(stack.url + path, headers=rival.headers, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    if path.endswith("/decisions"):  # its own refusals name what it asked for
        assert {each["subject"] for each in answer.json()["decisions"]} <= {rival.principal}
        return
    assert "victim" not in answer.text
    assert '"default"' not in answer.text.replace('"environment":"default"', "")


def test_nothing_of_the_victim_changed(owner: httpx.Client, owned: dict[str, str]) -> None:
    model = done(owner.get(f"{REGISTRY}/models/{owned['model']}"))
    assert model["description"] == ""
    run = done(owner.get(f"{MLFLOW}/runs/get", params={"run_id": owned["run_id"]}))["run"]["info"]
    assert run["lifecycle_stage"] == "active"
    keys = done(owner.get("/api/gateway/v1/keys", params={"page_size": 200}))["keys"]
    assert next(key for key in keys if key["id"] == owned["key_id"])["revoked_at"] is None


@pytest.mark.parametrize("service", ONE_TENANT_SERVICES)
def test_services_of_one_tenant_refuse_a_rival_on_every_route(stack: Stack, rival: Rival, service: str) -> None:
    root = stack.services[service]["http"]
    document = httpx.get(f"{root}/api/{service}/v1/openapi.json", timeout=PATIENCE_S).json()
    asked = 0
    with httpx.Client(base_url=root, headers=rival.headers, timeout=PATIENCE_S) as client:
        for path, operations in document["paths"].items():
            for method in operations:
                answer = client.request(method, filled(path, {}), json={} if method in {"post", "put"} else None)
                if "/health/" in path or answer.status_code in {400, 404, 405, 415, 422}:
                    continue  # refused before anything was looked at
                asked += 1
                assert answer.status_code == 403, (method, path, answer.text)
                assert "tenant_mismatch" in answer.text, (method, path, answer.text)
    assert asked > 5
