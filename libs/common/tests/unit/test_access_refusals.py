"""Whoever keeps asking for what the policy refuses is held back: undecided, unlogged, told nothing of what exists."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from clave_common.access.decision_log import DecisionLog
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.enforcement import Access, access_of, install_access
from clave_common.access.middleware import AccessMiddleware
from clave_common.access.model import Caller, Resource
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.ratelimit import Limit, RateLimiter
from clave_common.access.refusals import HELD_BACK, Refusals
from clave_common.access.routes import governed
from clave_common.access.snapshot import Snapshot
from clave_common.access.verification import Presented
from clave_common.errors import NotFound, PermissionDenied, ResourceExhausted
from clave_common.problems import install_problem_handlers
from fastapi import FastAPI, Request

READ, CHANGE = "registry:model.read", "registry:model.create"
CATALOG = {READ: {"mutating": False}, CHANGE: {"mutating": True}}
HELD = Snapshot(1, 0.0, MappingProxyType({}), PolicyBundle({}, {"version": "t", "catalog": CATALOG}))
ANNA = Caller("user:anna", "user", "acme", "api_key", expires_at=2e9, key_id="k1")
OPEN, CLOSED = Resource("model", "models/open"), Resource("model", "models/closed")
BURST = 5


class Engine:
    """Refuses what is closed, and counts what it was asked."""

    name = "fake"

    def __init__(self) -> None:
        self.asked = 0
        self.closed = {"models/closed"}

    async def load(self, bundle: PolicyBundle) -> None:
        pass

    async def decide(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked += 1
        reasons = ["no_grant"] if question["resource"]["id"] in self.closed else []
        obligations = {
            "rate_limit": {"per_minute": 600, "burst": 100},
            "mask": [],
            "audit": "sampled",
            "cache_ttl_s": 2,
        }
        return {"allow": not reasons, "reasons": reasons, "obligations": obligations, "policy_version": "t"}

    async def visible(self, question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return []


class SlowLimiter(RateLimiter):
    """Lets others run before it answers, as Redis does."""

    async def take(self, limits: Sequence[Limit]) -> None:
        await asyncio.sleep(0)
        await super().take(limits)


class Bench:
    """One service's enforcement: a burst of refusals, then one a second, by a clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1_000.0
        self.held = HELD
        self.engine = Engine()
        self.log = DecisionLog("test", None, sampled_share=0.0)
        refusals = Refusals(SlowLimiter(None, now=self.now), per_minute=60, burst=BURST, now=self.now)
        point = LocalDecisionPoint(self.engine, lambda: self.held, log=self.log, refusals=refusals, now=self.now)
        self.access = Access(point, refusals=refusals)

    def now(self) -> float:
        return self.at

    async def answer(self, caller: Caller = ANNA, action: str = READ, resource: Resource = CLOSED) -> str:
        try:
            await self.access.require(caller, action, resource)
        except (PermissionDenied, ResourceExhausted) as refusal:
            return refusal.code
        return "allowed"

    async def use_up(self) -> int:
        """Ask for what is closed until it is no more decided; returns how often it was."""
        answers = [await self.answer()]
        while answers[-1] != "rate_limited":
            answers.append(await self.answer())
        assert set(answers[:-1]) <= {"permission_denied"}
        return len(answers) - 1


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_beyond_the_limit_nothing_is_decided_or_logged_but_counted(bench: Bench) -> None:
    await bench.use_up()
    counted = HELD_BACK.labels("user")._value.get()
    asked, logged = bench.engine.asked, len(bench.log._entries)
    answers = [await bench.answer(action=action) for action in (READ, CHANGE) for _ in range(20)]
    assert set(answers) == {"rate_limited"}
    assert (bench.engine.asked, len(bench.log._entries)) == (asked, logged)
    assert HELD_BACK.labels("user")._value.get() == counted + 40


async def test_the_refusal_names_the_limit_the_wait_and_the_remedy(bench: Bench) -> None:
    decided = []
    for _ in range(BURST + 1):
        with pytest.raises(PermissionDenied) as refused:
            await bench.access.require(ANNA, READ, CLOSED)
        decided.append(refused.value.facts["decision_id"])
    with pytest.raises(ResourceExhausted) as held:
        await bench.access.require(ANNA, READ, CLOSED)
    assert held.value.facts == {"limit": "refusals", "per_minute": 60, "burst": BURST, "decision_id": decided[-1]}
    assert held.value.retry_after_s == pytest.approx(1.0)
    assert f"clave explain {decided[-1]}" in held.value.detail


async def test_a_refusal_is_decided_again_when_the_wait_is_over_and_no_sooner(bench: Bench) -> None:
    await bench.use_up()
    for wait_s, expected in ((0.9, "rate_limited"), (0.2, "permission_denied"), (0.5, "rate_limited")):
        bench.at += wait_s
        assert await bench.answer() == expected
    bench.at += BURST + 1
    assert await bench.use_up() == BURST + 1  # the one over the limit is decided, and the last that is


async def test_another_key_and_a_service_go_on(bench: Bench) -> None:
    await bench.use_up()
    assert await bench.answer(replace(ANNA, key_id="k2")) == "permission_denied"
    service = Caller("service:trainer", "service", "acme", "internal_jwt", expires_at=2e9)
    assert {await bench.answer(service) for _ in range(3 * BURST)} == {"permission_denied"}
    posing = replace(service, method="api_key")
    assert [await bench.answer(posing) for _ in range(BURST + 2)][-1] == "rate_limited"


async def test_what_was_allowed_before_goes_on_until_it_is_refused(bench: Bench) -> None:
    assert await bench.answer(resource=OPEN) == "allowed"
    await bench.use_up()
    asked = bench.engine.asked
    assert await bench.answer(resource=OPEN) == "allowed"
    bench.at += 2.5  # the allow is over, and so is the first wait: look again, use it up again
    await bench.use_up()
    assert await bench.answer(resource=OPEN) == "allowed"
    assert bench.engine.asked > asked
    bench.at += 2.5
    await bench.use_up()
    bench.engine.closed.add(OPEN.id)
    assert [await bench.answer(resource=OPEN) for _ in range(2)] == ["permission_denied", "rate_limited"]


async def test_what_was_allowed_before_is_asked_again_after_anybodys_key_changed(bench: Bench) -> None:
    assert await bench.answer(resource=OPEN) == "allowed"
    await bench.use_up()
    for revision, closed, expected in ((2, set(), "allowed"), (3, {OPEN.id}, "permission_denied")):
        bench.held = replace(HELD, revision=revision)
        bench.engine.closed |= closed
        asked = bench.engine.asked
        assert await bench.answer(resource=OPEN) == expected
        assert bench.engine.asked == asked + 1


async def test_a_change_and_what_was_not_asked_before_are_held_back_although_they_would_be_allowed(
    bench: Bench,
) -> None:
    assert await bench.answer(action=CHANGE, resource=OPEN) == "allowed"
    await bench.use_up()
    assert await bench.answer(action=CHANGE, resource=OPEN) == "rate_limited"
    assert await bench.answer(resource=Resource("model", "models/other")) == "rate_limited"
    bench.at += 1.1
    assert await bench.answer(action=CHANGE, resource=OPEN) == "allowed"


async def test_many_at_once_are_decided_no_more_than_the_limit_gives(bench: Bench) -> None:
    answers = await asyncio.gather(*(bench.answer() for _ in range(200)))
    assert bench.engine.asked == answers.count("permission_denied") == BURST + 1


async def test_looking_charges_nothing() -> None:
    limiter, limit = RateLimiter(None, now=lambda: 5.0), Limit("k", per_second=1, burst=2)
    for left in (2, 1, 0):
        waits = {await limiter.wait_s([limit]) for _ in range(5)}
        assert waits == ({0.0} if left else {1.0})
        if left:
            await limiter.take([limit])


class Signed:
    async def verify(self, presented: Presented) -> Caller | None:
        return ANNA


async def test_an_answer_without_a_decision_tells_nobody_who_is_held_back_what_exists(bench: Bench) -> None:
    app = FastAPI()
    install_access(app, bench.access)
    install_problem_handlers(app)

    @app.get("/models/{model}")
    async def find(
        request: Request, model: str, caller: Caller = governed(READ, resource_id="models/{model}", in_operation=True)
    ) -> str:
        if model not in {"open", "closed"}:
            raise NotFound("No such model.")
        await access_of(request.app).require(caller, READ, Resource("model", f"models/{model}"))
        return model

    door = AccessMiddleware(app, verifier=Signed(), service="test", access=bench.access)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=door), base_url="http://x") as client:
        names = ("open", "closed", "gone")
        assert [(await client.get(f"/models/{name}")).status_code for name in names] == [200, 403, 404]
        await bench.use_up()
        held = [await client.get(f"/models/{name}") for name in ("closed", "gone", "open")]
        assert [answer.status_code for answer in held] == [429, 429, 200]
        assert held[0].content == held[1].content
        assert {answer.headers["retry-after"] for answer in held[:2]} == {"1"}
        bench.at += 1.1
        assert (await client.get("/models/gone")).status_code == 404
