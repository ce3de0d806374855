"""Every OpenAPI document against its service: whatever the document allows is never a server error.

Thirty seconds' worth of cases with a fixed seed; ``CLAVE_SCHEMA_CASES`` sets the number per operation for a deeper
search, ``CLAVE_SCHEMA_SEED`` another seed, and with more than 20 cases the invalid ones are made as well.
"""

import os
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from clave_testing.stack import Stack
from clave_testing.tenants import Rival, make_rival
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]
CASES = int(os.environ.get("CLAVE_SCHEMA_CASES", "3"))
SEED = int(os.environ.get("CLAVE_SCHEMA_SEED", "1"))
MODE = GenerationMode.NEGATIVE if CASES > 20 else GenerationMode.POSITIVE
# These change the whole installation for everybody else's tests.
SPARED = {
    "/api/gateway/v1/lockdown",
    "/api/gateway/v1/policies/rollback",
    "/api/gateway/v1/policies/{version}/activate",
}


@pytest.fixture(scope="module")
def rival(stack: Stack) -> Rival:
    """A tenant of its own: what the cases make and delete is nobody else's."""
    return make_rival(stack)


def operations(base: str, service: str) -> Iterator[schemathesis.APIOperation]:
    schema = schemathesis.openapi.from_url(f"{base}/api/{service}/v1/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path not in SPARED:
            yield operation


@pytest.mark.parametrize("service", ["gateway", "registry", "features", "inference", "monitor", "trainer"])
def test_no_documented_request_is_a_server_error(stack: Stack, rival: Rival, service: str) -> None:
    base = stack.services[service]["http"]
    faults: list[str] = []
    with httpx.Client(base_url=base, headers=rival.headers, timeout=30) as client:
        for operation in operations(base, service):

            @seed(SEED)
            @settings(
                max_examples=CASES,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=MODE))
            def ask(case: schemathesis.Case) -> None:
                answer = case.call(base_url=base, headers=rival.headers, timeout=30)
                if answer.status_code >= 500 and answer.status_code != 503:
                    faults.append(f"{answer.status_code} {case.as_curl_command()[:500]} -> {answer.text[:300]}")

            ask()
        assert client.get("/v2/health/ready").status_code == 200
    assert not faults, "\n".join(faults)
