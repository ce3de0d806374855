"""Which limits a request is charged to."""

from typing import Any

import pytest
from clave_common.access.enforcement import Access, start_request
from clave_common.access.model import Caller, Decision, RateLimit, Resource
from clave_common.access.ratelimit import RateLimiter
from clave_common.access.request_limits import RequestLimits, limits_of
from clave_common.errors import ResourceExhausted

CALLER = Caller("app:shop", "app", "acme", "api_key", 2e9, key_id="k1")
DECISION = Decision(True, (), "t", "d", "fake", rate_limit=RateLimit(600, 100))
DATA: dict[str, Any] = {
    "catalog": {"registry:model.read": {"mutating": False}, "registry:model.create": {"mutating": True}},
    "rate_limits": {
        "tenant": {"per_minute": 60, "burst": 4},
        "model": {"per_minute": 60, "burst": 3},
        "classes": {"write": {"per_minute": 60, "burst": 2}},
    },
}
MODEL = Resource("model", "models/churn")


def keys(action: str, resource: Resource = MODEL) -> list[str]:
    return [limit.key for limit in limits_of(CALLER, action, resource, DECISION, DATA)]


def test_a_change_is_charged_to_its_key_its_class_and_its_tenant() -> None:
    assert keys("registry:model.create") == ["acme:k1:api", "acme:k1:write:all", "acme:tenant:all"]
    assert keys("registry:unknown") == ["acme:k1:api", "acme:k1:write:all", "acme:tenant:all"]
    assert keys("registry:model.read") == ["acme:k1:api", "acme:tenant:all"]


def test_a_prediction_is_charged_to_its_model_besides() -> None:
    pinned = Resource("model_version", "models/churn/versions/3")
    assert keys("inference:predict", pinned) == [
        "acme:k1:predict:models/churn",
        "acme:tenant:all",
        "acme:models/churn:all",
    ]


async def test_the_tightest_limit_holds_and_a_refusal_charges_none() -> None:
    limits = RequestLimits(RateLimiter(None, now=lambda: 100.0), data=lambda: DATA)
    for _ in range(2):
        await limits.charge(CALLER, "registry:model.create", MODEL, DECISION)
    with pytest.raises(ResourceExhausted):
        await limits.charge(CALLER, "registry:model.create", MODEL, DECISION)
    for _ in range(2):  # what the refused change would have cost is left for the tenant
        await limits.charge(CALLER, "registry:model.read", MODEL, DECISION)
    other = Caller("app:other", "app", "acme", "api_key", 2e9, key_id="k2")
    with pytest.raises(ResourceExhausted):
        await limits.charge(other, "registry:model.read", MODEL, DECISION)


class Charges(RequestLimits):
    def __init__(self) -> None:
        self.charged: list[str] = []

    async def charge(self, caller: Caller, action: str, resource: Resource, decision: Decision) -> None:
        self.charged.append(action)


class Allows:
    async def decide(self, caller: Caller, action: str, resource: Resource, context: Any) -> Decision:
        is_allowed = action != "denied"
        return Decision(is_allowed, () if is_allowed else ("no_grant",), "1", "dec_1", "fake")

    async def visible(self, caller: Caller, action: str) -> list[Any]:
        return []


async def test_a_request_is_charged_once_whatever_was_asked_before() -> None:
    caller, thing, charges = (
        Caller("user:ana", "user", "acme", "api_key", 2e9),
        Resource("model", "models/a"),
        Charges(),
    )
    access = Access(Allows(), limits=charges)
    start_request()
    assert (await access.check(caller, "denied", thing)).allow is False
    assert (await access.check(caller, "asked", thing)).allow is True
    assert charges.charged == []
    for action in ("done", "done too"):
        await access.require(caller, action, thing)
    assert charges.charged == ["done"]
    start_request()
    await access.require(caller, "done again", thing)
    assert charges.charged == ["done", "done again"]
