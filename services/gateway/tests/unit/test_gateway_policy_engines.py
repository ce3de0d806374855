"""The embedded engine and a real OPA server answer alike, on the worked cases and on thousands of spoilt ones.

Needs an ``opa`` program (PATH, or CLAVE_TEST_OPA). Where there is none the tests fall back to comparing two embedded
engines and print that in capitals: the comparison with OPA is then NOT made. CLAVE_TEST_POLICY_FUZZ sets how many
inputs are tried.
"""

import random
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from clave_common.access.engine import EmbeddedEngine, PolicyEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_gateway.policy_cases import engine_with, run_cases
from clave_gateway.policy_fuzz import fuzz
from clave_testing.policies import (
    CASES,
    FUZZ,
    BareBundle,
    bare,
    engine,
    opa_program,
    question,
    sample_bundle,
    shipped_bundle,
)


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


@pytest.mark.parametrize(("namespace", "expected"), [("Development", []), ("Production", ["outside_change_window"])])
async def test_an_environment_without_windows_is_open_in_a_freeze_too(
    referee: PolicyEngine, namespace: str, expected: list[str]
) -> None:
    freeze = sample_bundle().data["freezes"][0]
    asked = question(
        "p035",
        action__name="inference:deployment.create",
        subject__id="user:emil",
        resource__properties__namespace=namespace,
        resource__properties__card={},
        context__time=freeze["from"] + 10 * 3600,
        context__auth__expires_at=freeze["until"],
    )
    for decides in (engine(), referee):
        assert (await decides.decide(asked))["reasons"] == expected


async def test_spoilt_inputs_are_answered_alike(referee: PolicyEngine) -> None:
    report = await fuzz([engine(), bare(sample_bundle()), referee], CASES.cases, inputs=FUZZ)
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


def crowded_bundle(*, bindings: int, groups: int) -> PolicyBundle:
    """ada has many bindings of every kind, bea is in all groups, carl in a few."""
    chance = random.Random(5)

    def binding(number: int) -> dict[str, Any]:
        pattern = chance.choice(["models/m{}", "models/m{}/**", "endpoints/e{}", "endpoints/e{}/**"]).format(number)
        made: dict[str, Any] = {
            "role": chance.choice(["viewer", "data-scientist", "approver", "scoring-app", "auditor", "tenant-admin"]),
            "tenant": chance.choice(["acme", "acme", "acme", f"t{number % 50}"]),
            "namespaces": chance.choice([["*"], ["Staging"], ["Production"], ["Development", "Staging"]]),
        }
        return made if number % 50 == 49 and number < 100 else {**made, "resources": [pattern]}

    held = {"user:ada": [binding(number) for number in range(bindings)]}
    return shipped_with_data(
        bindings=held, group_bindings={f"g{number}": [binding(number)] for number in range(groups)}
    )


def shipped_with_data(**data: Any) -> PolicyBundle:
    shipped = shipped_bundle()
    return PolicyBundle(shipped.modules, {**shipped.data, **data})


def crowded_questions(*, things: int, groups: int) -> Iterator[dict[str, Any]]:
    """Questions of the three about things that some of their bindings reach."""
    chance = random.Random(11)
    who = {
        "user:ada": [],
        "user:bea": [f"g{n}" for n in range(groups)],
        "user:dora": [f"g{n}" for n in range(1, groups)],
        "user:carl": ["g1", "g2", "g3", "g4", "x"],
    }
    actions = ["registry:model.read", "registry:version.create", "inference:predict", "admin:key.create"]
    for _ in range(40):
        subject = chance.choice(list(who))
        thing = chance.choice(["models/m{}", "models/m{}/versions/3", "endpoints/e{}", "endpoints/e{}/x"])
        properties: dict[str, Any] = {
            "tenant": chance.choice(["acme", "acme", "t3"]),
            "namespace": chance.choice(["Staging", "Production", "Development"]),
            "status": "approved",
            "features": [],
            "card": {},
            "scopes": chance.choice([["inference:predict"], ["registry:model.read"], ["audit:log.read"]]),
        }
        yield {
            "subject": {"type": "user", "id": subject, "properties": {"tenant": "acme", "groups": who[subject]}},
            "action": {"name": chance.choice(actions)},
            "resource": {"type": "thing", "id": thing.format(chance.randrange(things)), "properties": properties},
            "context": {
                "time": 1_794_988_800,
                "source_ip": "127.0.0.1",
                "auth": {"method": "api_key", "expires_at": 1_794_988_900, "scopes": ["**"], "amr": ["mfa"]},
            },
        }


@pytest.mark.parametrize(("bindings", "groups", "as_bare"), [(2000, 400, False), (60, 25, True)])
async def test_many_bindings_and_groups_are_answered_as_by_a_server(
    bindings: int, groups: int, *, as_bare: bool
) -> None:
    bundle = crowded_bundle(bindings=bindings, groups=groups)
    program = opa_program()
    if program is None:
        warnings.warn("NO REAL OPA: crowded subjects were not compared with one.", stacklevel=1)
    embedded, answers = engine(bundle), set[bool]()
    served = BareBundle(bundle.modules, bundle.data) if as_bare else bundle
    async with engine_with(served, "opa" if program else "embedded", opa=program or "opa") as server:
        for asked in crowded_questions(things=bindings, groups=groups):
            document = await embedded.decide(asked)
            if program or not as_bare:
                assert document == await server.decide(asked), asked
            answers.add(document["allow"])
    assert answers == {True, False}


async def test_the_shipped_policy_loads_on_a_real_server() -> None:
    program = opa_program()
    if program is None:
        warnings.warn("NO REAL OPA: the shipped policy was not loaded into one.", stacklevel=1)
        return
    async with engine_with(shipped_bundle(), "opa", opa=program) as server:
        document = await server.decide({})
    assert document["allow"] is False
    assert document["policy_version"] == shipped_bundle().version
