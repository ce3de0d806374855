"""The embedded engine and a real OPA server answer alike, on the worked cases and on thousands of spoilt ones.

Needs an ``opa`` program (PATH, or CLAVE_TEST_OPA). Where there is none the tests fall back to comparing two embedded
engines and print that in capitals: the comparison with OPA is then NOT made. CLAVE_TEST_POLICY_FUZZ sets how many
inputs are tried.
"""

import copy
import json
import random
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from clave_common.access.engine import PolicyEngine
from clave_common.errors import ClaveError
from clave_gateway.policy_cases import engine_with, run_cases
from clave_testing.policies import CASES, FUZZ, engine, opa_program, sample_bundle, shipped_bundle

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2.5, 1e308, 10**18, "", " ", "*", "**", "user:admin", "Production", "acme",
    "models/../x", "models/fraud\n",
    "\uff41\uff43\uff4d\uff45", [], [None], [1, "x"], ["**"], {}, {"a": 1}, [[]], [{"by": None}],
    [{"name": 1}], [{"name": "x", "classification": None}],
]  # fmt: skip


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
    chance = random.Random(20261122)
    embedded = engine()
    for _ in range(FUZZ):
        asked = spoilt(chance)
        assert await answer(embedded, asked) == await answer(referee, asked), json.dumps(asked)


async def test_the_shipped_policy_loads_on_a_real_server() -> None:
    program = opa_program()
    if program is None:
        warnings.warn("NO REAL OPA: the shipped policy was not loaded into one.", stacklevel=1)
        return
    async with engine_with(shipped_bundle(), "opa", opa=program) as server:
        document = await server.decide({})
    assert document["allow"] is False
    assert document["policy_version"] == shipped_bundle().version


def spoilt(chance: random.Random) -> dict[str, Any]:
    """A worked case with one to four values dropped or swapped for odd ones."""
    asked: dict[str, Any] = copy.deepcopy(dict(chance.choice(CASES.cases)["input"]))
    for _ in range(chance.randint(1, 4)):
        places = [*walk(asked)]
        holder, key = chance.choice(places)
        if isinstance(holder, dict) and chance.random() < 0.3:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(chance.choice(ODD))
    return asked


def walk(value: Any) -> list[tuple[Any, Any]]:
    """Every place inside a document, as (container, key)."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    return [*found, *(place for key in keys for place in walk(value[key]))]


async def answer(engine_: PolicyEngine, asked: dict[str, Any]) -> Any:
    try:
        document = await engine_.decide(asked)
    except ClaveError as error:
        pytest.fail(f"{engine_.name} failed with {error.code} on {json.dumps(asked)}")
    return {name: document[name] for name in ("allow", "reasons", "obligations")}
