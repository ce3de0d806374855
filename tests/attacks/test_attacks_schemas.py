"""Every OpenAPI document against its service: whatever the document allows is never a server error.

A few cases with a fixed seed for each operation; ``CLAVE_SCHEMA_CASES`` sets their number for a deeper search, and
``CLAVE_SCHEMA_SEED`` another seed. With more than 20 cases invalid ones are made as well. Half of the cases name
objects that exist, so that they get further than "not found". MLflow's routes take bodies that no document describes;
their fields are combined here.
"""

import json
import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import schemathesis
from clave_testing.patience import PATIENCE_S
from clave_testing.served_models import serve_model
from clave_testing.stack import Stack
from clave_testing.tenants import Rival, make_rival
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]
CASES = int(os.environ.get("CLAVE_SCHEMA_CASES", "3"))
SEED = int(os.environ.get("CLAVE_SCHEMA_SEED", "1"))
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if CASES > 20 else [GenerationMode.POSITIVE]
SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")
# These change the whole installation for everybody else's tests.
SPARED = {
    "/api/gateway/v1/lockdown",
    "/api/gateway/v1/policies/rollback",
    "/api/gateway/v1/policies/{version}/activate",
}
# A rival gets no further than the door of these; the administrator does.
ONE_TENANT = {"features", "monitor", "trainer"}
RUN = settings(
    max_examples=CASES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def rival(stack: Stack) -> Rival:
    """A tenant of its own: what the cases make and delete is nobody else's."""
    return make_rival(stack)


@pytest.fixture(scope="module")
def real(stack: Stack, rival: Rival) -> dict[str, str]:
    """Objects of the rival's that exist, by the parameter that names them."""
    name = f"fuzzed-{uuid4().hex[:8]}"
    serve_model(stack, name, headers=rival.headers)
    with httpx.Client(base_url=f"{stack.url}/api/2.0/mlflow", headers=rival.headers, timeout=PATIENCE_S) as client:
        experiment = client.post("/experiments/create", json={"name": name}).json()["experiment_id"]
        run = client.post("/runs/create", json={"experiment_id": experiment}).json()["run"]["info"]["run_id"]
    return {
        **dict.fromkeys(("model", "name", "endpoint", "model_name"), name),
        **dict.fromkeys(("version", "model_version"), "1"),
        **dict.fromkeys(("run_id", "run_uuid"), run),
        "experiment_id": experiment,
    }


def operations(base: str, service: str) -> Iterator[schemathesis.APIOperation]:
    schema = schemathesis.openapi.from_url(f"{base}/api/{service}/v1/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path not in SPARED:
            yield operation


def is_fault(answer: httpx.Response) -> bool:
    return answer.status_code >= 500 and answer.status_code != 503


Located = tuple[str, dict[str, Any]]


def sent_by_callers(document: dict[str, Any]) -> Iterator[Located]:
    """The schema of every parameter and body, and where it stands."""
    for path, operations_there in document["paths"].items():
        for method, operation in operations_there.items():
            for parameter in operation.get("parameters", ()):
                yield f"{method} {path}: {parameter['name']}", parameter["schema"]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                yield f"{method} {path}", content.get("schema", {})


def inside(where: str, schema: dict[str, Any], document: dict[str, Any]) -> Iterator[Located]:
    """What one schema is made of."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        yield name, document["components"]["schemas"][name]
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield where, part
    for name, part in schema.get("properties", {}).items():
        yield f"{where}.{name}", part
    if "items" in schema:
        yield f"{where}[]", schema["items"]
    if isinstance(schema.get("additionalProperties"), dict):
        yield f"{where}[]", schema["additionalProperties"]


def whole_numbers(document: dict[str, Any]) -> Iterator[Located]:
    """Every whole number that a caller of a documented operation sends."""
    waiting, named = list(sent_by_callers(document)), set[str]()
    while waiting:
        where, schema = waiting.pop()
        if schema.get("type") == "integer":
            yield where, schema
        if schema.get("$ref") not in named:
            named |= {schema["$ref"]} if "$ref" in schema else set()
            waiting.extend(inside(where, schema, document))


@pytest.mark.parametrize("service", SERVICES)
def test_every_whole_number_that_a_caller_sends_is_bounded(stack: Stack, service: str) -> None:
    url = f"{stack.services[service]['http']}/api/{service}/v1/openapi.json"
    found = list(whole_numbers(httpx.get(url, headers=stack.headers, timeout=PATIENCE_S).json()))
    assert found or service == "inference"
    unbounded = {
        where
        for where, schema in found
        if not {"enum", "const"} & set(schema)
        and not ({"minimum", "exclusiveMinimum"} & set(schema) and {"maximum", "exclusiveMaximum"} & set(schema))
    }
    assert unbounded == set()


@pytest.mark.parametrize("service", SERVICES)
def test_no_documented_request_is_a_server_error(
    stack: Stack, rival: Rival, real: dict[str, str], service: str
) -> None:
    base = stack.services[service]["http"]
    headers = stack.headers if service in ONE_TENANT else rival.headers
    faults: list[str] = []
    asked = 0
    for operation in operations(base, service):
        for mode in MODES:

            @seed(SEED)
            @RUN
            @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
            def ask(case: schemathesis.Case, known: bool) -> None:
                nonlocal asked
                if known and set(case.path_parameters or {}) & set(real):
                    case.path_parameters = {key: real.get(key, old) for key, old in case.path_parameters.items()}
                answer = case.call(base_url=base, headers=headers, timeout=PATIENCE_S)
                asked += 1
                if is_fault(answer):
                    faults.append(f"{answer.status_code} {case.as_curl_command()[:500]} -> {answer.text[:300]}")

            try:
                ask()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE, operation.label  # nothing wrong can be said to it
    print(f"{service}: {asked} requests")
    assert httpx.get(f"{base}/v2/health/ready", timeout=PATIENCE_S).status_code == 200
    assert not faults, "\n".join(faults)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.lists(st.one_of(st.text(max_size=5), st.integers(), st.dictionaries(st.text(max_size=5), st.text(max_size=5)))),
    st.dictionaries(st.text(max_size=5), st.integers()),
    st.sampled_from(["", "\0", "9" * 40, "../x", "name = 'a' AND", "\ud7ff", "1e400", "models:/x/1", "runs:/x/y"]),
)  # fmt: skip
FIELDS = (
    "alias", "artifact_path", "dataset_inputs", "datasets", "description", "end_time", "experiment_id",
    "experiment_ids", "filter", "filter_string", "inputs", "key", "max_results", "metric_key", "metrics", "model_id",
    "model_ids", "models", "name", "new_name", "order_by", "outputs", "page_token", "params", "path", "run_id",
    "run_ids", "run_uuid", "run_view_type", "source", "stage", "stages", "start_time", "status", "step", "tags",
    "timestamp", "value", "version", "view_type",
)  # fmt: skip


def test_no_body_of_mlflows_fields_is_a_server_error(stack: Stack, rival: Rival, real: dict[str, str]) -> None:
    base = stack.services["registry"]["http"]
    routes = [
        (method.upper(), operation.path)
        for operation in operations(base, "registry")
        if operation.path.startswith(("/api/2.0/mlflow/", "/api/3.0/mlflow/"))
        for method in [operation.method]
    ]
    assert len(routes) > 30
    faults: list[str] = []
    fields = st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=6)
    known = st.sets(st.sampled_from(sorted({"name", "version", "run_id", "experiment_id"})))

    @seed(SEED)
    @RUN
    @given(bodies=st.lists(fields, min_size=len(routes), max_size=len(routes)), given_ids=known)
    def ask(bodies: list[dict], given_ids: set[str]) -> None:
        for (method, path), body in zip(routes, bodies, strict=True):
            full = {**body, **{key: real[key] for key in given_ids}}
            sent: dict[str, Any] = {"content": json.dumps(full).encode("utf-8", "surrogatepass")}
            if method == "GET":
                sent = {"params": {key: str(value).encode("utf-8", "replace") for key, value in full.items()}}
            answer = client.request(method, path.format_map(_Named(real)), **sent)
            if is_fault(answer):
                faults.append(f"{answer.status_code} {method} {path} {full!r:.400} -> {answer.text[:300]}")

    with httpx.Client(base_url=base, headers=rival.headers, timeout=PATIENCE_S) as client:
        ask()
    assert not faults, "\n".join(faults)


class _Named(dict[str, str]):
    """Every parameter of a path: the object that exists, else a word."""

    def __missing__(self, key: str) -> str:
        return "some"
