"""The embedded engine and a real OPA server answer alike, on the worked cases and on thousands of spoilt ones.

Needs an ``opa`` program (PATH, or CLAVE_TEST_OPA). Where there is none the tests fall back to comparing two embedded
engines and print that in capitals: the comparison with OPA is then NOT made. CLAVE_TEST_POLICY_FUZZ sets how many
inputs are tried.
"""

import warnings
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from clave_common.access.engine import EmbeddedEngine, PolicyEngine
from clave_gateway.policy_cases import engine_with, run_cases
from clave_gateway.policy_fuzz import fuzz
from clave_testing.policies import CASES, FUZZ, engine, opa_program, sample_bundle, shipped_bundle


@pytest.fixture(scope="module")
async def referee() -> AsyncIterator[PolicyEngine]:
    program = opa_program()
    if program is None:
        warnings.warn("NO REAL OPA: set CLAVE_TEST_OPA or put 'opa' on PATH. ENGINES ARE NOT COMPARED.", stacklevel=1)
        yield engine()
        return
    async with engine_with(sample_bundle(), "opa", opa=program) as server:
        yield server


async def test_the_worked_cases_hold_on_the_referee(referee: PolicyEngine) -> None:
    report = await run_cases(referee, CASES.cases)
    assert referee.name in {"opa", "embedded"}
    assert report.failures == []


async def test_spoilt_inputs_are_answered_alike(referee: PolicyEngine) -> None:
    report = await fuzz([engine(), referee], CASES.cases, inputs=FUZZ)
    assert report.failures == []
    assert report.asked == FUZZ


class Contrary(EmbeddedEngine):
    """Allows whatever it is asked, reasons or not."""

    async def decide(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**await super().decide(question), "allow": True}


async def test_the_fuzz_notices_an_engine_that_disagrees_or_contradicts_itself() -> None:
    contrary = Contrary()
    contrary.use(sample_bundle())
    assert not (await fuzz([engine(), contrary], CASES.cases, inputs=20)).passed
    assert not (await fuzz([contrary], CASES.cases, inputs=20)).passed


async def test_the_shipped_policy_loads_on_a_real_server() -> None:
    program = opa_program()
    if program is None:
        warnings.warn("NO REAL OPA: the shipped policy was not loaded into one.", stacklevel=1)
        return
    async with engine_with(shipped_bundle(), "opa", opa=program) as server:
        document = await server.decide({})
    assert document["allow"] is False
    assert document["policy_version"] == shipped_bundle().version
