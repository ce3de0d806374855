"""Only exactly true allows; what may be reused is reused, what changes is asked afresh; limits hold."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from clave_common.access.decision_point import LocalDecisionPoint, Staleness
from clave_common.access.enforcement import Access, start_request
from clave_common.access.engine import EmbeddedEngine
from clave_common.access.filters import visible_rows
from clave_common.access.model import Caller, Decision, RateLimit, Resource
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.ratelimit import Limit, RateLimiter
from clave_common.access.request_limits import RequestLimits, limits_of
from clave_common.access.service_tokens import public_keys
from clave_common.access.snapshot import Snapshot, SnapshotFile, SnapshotRejected, decode_snapshot, encode_snapshot
from clave_common.access.snapshot_keeper import SnapshotKeeper
from clave_common.errors import PermissionDenied, ResourceExhausted, Unavailable
from joserfc.jwk import OKPKey
from sqlalchemy import Column, MetaData, Table, Text

CATALOG = {"registry:model.read": {"mutating": False}, "registry:model.create": {"mutating": True}}
BUNDLE = PolicyBundle(modules={}, data={"version": "t", "catalog": CATALOG})
CALLER = Caller("user:anna", "user", "acme", "oidc", expires_at=2_000_000_000.0, key_id="k1")
MODEL = Resource("model", "models/churn", {"tenant": "acme"})


def document(**changes: Any) -> dict[str, Any]:
    obligations = {"rate_limit": {"per_minute": 60, "burst": 2}, "mask": [], "audit": "sampled", "cache_ttl_s": 5}
    return {"allow": True, "reasons": [], "obligations": obligations, "policy_version": "t", **changes}


class FakeEngine:
    """Answers what it is told and counts the questions."""

    name = "fake"

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.questions: list[Mapping[str, Any]] = []

    async def load(self, bundle: PolicyBundle) -> None:
        pass

    async def decide(self, question: Mapping[str, Any]) -> Any:
        self.questions.append(question)
        return self.answer

    async def visible(self, question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return []


def snapshot(revision: int = 1) -> Snapshot:
    return Snapshot(revision, 0.0, MappingProxyType({}), BUNDLE)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


async def test_an_allow_of_a_read_is_reused_for_its_seconds_and_no_longer() -> None:
    engine, clock = FakeEngine(document()), Clock()
    point = LocalDecisionPoint(engine, snapshot, now=clock)
    for _ in range(3):
        assert (await point.decide(CALLER, "registry:model.read", MODEL, {})).allow
    assert len(engine.questions) == 1
    clock.at += 5
    await point.decide(CALLER, "registry:model.read", MODEL, {})
    assert len(engine.questions) == 2


async def test_neither_changes_nor_denials_nor_unknown_actions_are_reused() -> None:
    for action, answer in (
        ("registry:model.create", document()),
        ("registry:model.nuke", document()),
        ("registry:model.read", document(allow=False, reasons=["no_grant"])),
    ):
        engine = FakeEngine(answer)
        point = LocalDecisionPoint(engine, snapshot, now=Clock())
        await point.decide(CALLER, action, MODEL, {})
        await point.decide(CALLER, action, MODEL, {})
        assert len(engine.questions) == 2, action


async def test_a_new_revision_another_caller_or_another_purpose_is_asked_afresh() -> None:
    engine, held = FakeEngine(document()), [snapshot()]
    point = LocalDecisionPoint(engine, lambda: held[0], now=Clock())
    await point.decide(CALLER, "registry:model.read", MODEL, {})
    held[0] = snapshot(2)
    await point.decide(CALLER, "registry:model.read", MODEL, {})
    other = Caller("user:anna", "user", "acme", "oidc", expires_at=2_000_000_000.0, key_id="k1", scopes=("x",))
    await point.decide(other, "registry:model.read", MODEL, {})
    await point.decide(CALLER, "registry:model.read", MODEL, {"purpose": "marketing"})
    assert len(engine.questions) == 4


async def test_a_reused_allow_ends_with_the_credential() -> None:
    engine, clock = FakeEngine(document()), Clock()
    point = LocalDecisionPoint(engine, snapshot, now=clock)
    brief = Caller("user:anna", "user", "acme", "oidc", expires_at=clock.at + 1)
    await point.decide(brief, "registry:model.read", MODEL, {})
    clock.at += 1.5
    await point.decide(brief, "registry:model.read", MODEL, {})
    assert len(engine.questions) == 2


async def test_nothing_is_kept_while_a_server_may_still_answer_by_the_rules_before() -> None:
    engine, clock, newest = FakeEngine(document()), Clock(), [snapshot()]
    point = LocalDecisionPoint(engine, lambda: newest[0], now=clock, settle_s=2.0)
    for at in (0.0, 1.9, 0.2, 0.1):
        clock.at += at
        await point.decide(CALLER, "registry:model.read", MODEL, {})
    assert len(engine.questions) == 3
    newest[0] = replace(newest[0], revision=newest[0].revision + 1)
    for at in (0.1, 0.1, 2.0, 0.1):
        clock.at += at
        await point.decide(CALLER, "registry:model.read", MODEL, {})
    assert len(engine.questions) == 6


@pytest.mark.parametrize(
    "answer",
    [
        None, {}, [], {"allow": True}, document(obligations={}), document(reasons=None), document(obligations=None),
    ],
)  # fmt: skip
async def test_a_document_that_is_no_decision_is_no_answer(answer: Any) -> None:
    access = Access(LocalDecisionPoint(FakeEngine(answer), snapshot, now=Clock()))
    with pytest.raises(Unavailable):
        await access.require(CALLER, "registry:model.create", MODEL)


@pytest.mark.parametrize("allow", ["true", 1, None, [True], {"x": 1}, False])
async def test_only_exactly_true_allows(allow: Any) -> None:
    access = Access(LocalDecisionPoint(FakeEngine(document(allow=allow)), snapshot, now=Clock()))
    with pytest.raises(PermissionDenied):
        await access.require(CALLER, "registry:model.create", MODEL)


async def test_true_with_a_reason_against_it_denies() -> None:
    access = Access(LocalDecisionPoint(FakeEngine(document(reasons=["lockdown"])), snapshot, now=Clock()))
    with pytest.raises(PermissionDenied) as refusal:
        await access.require(CALLER, "registry:model.create", MODEL)
    assert refusal.value.facts["reasons"] == ["lockdown"]


async def test_without_the_gateway_reads_go_on_and_changes_stop_within_their_bounds() -> None:
    age = [0.0]
    point = LocalDecisionPoint(
        FakeEngine(document()),
        snapshot,
        age_s=lambda: age[0],
        staleness=Staleness(mutation_s=60, read_s=600),
        now=Clock(),
    )
    age[0] = 61
    assert (await point.decide(CALLER, "registry:model.read", MODEL, {})).allow
    with pytest.raises(Unavailable):
        await point.decide(CALLER, "registry:model.create", MODEL, {})
    age[0] = 601
    with pytest.raises(Unavailable):
        await point.decide(CALLER, "registry:model.read", MODEL, {})


async def test_nobody_decides_without_a_snapshot() -> None:
    with pytest.raises(Unavailable):
        await LocalDecisionPoint(FakeEngine(document()), lambda: None).decide(CALLER, "registry:model.read", MODEL, {})


async def test_nothing_of_the_context_but_what_the_policy_knows_reaches_it() -> None:
    engine = FakeEngine(document())
    point = LocalDecisionPoint(engine, snapshot, now=Clock())
    await point.decide(CALLER, "registry:model.create", MODEL, {"purpose": "p", "auth": {"amr": ["mfa"]}, "time": 1})
    context = engine.questions[0]["context"]
    assert context["purpose"] == "p"
    assert context["auth"]["amr"] == []
    assert context["time"] == Clock().at


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a thread's end drops its machine
async def test_an_engine_on_every_thread_decides_alike() -> None:
    module = 'package clave.authz\nimport rego.v1\ndecision := {"n": input.n}\n'
    filters = 'package clave.filters\nimport rego.v1\nvisible contains {"n": 1} if input.n == 1\n'
    engine = EmbeddedEngine()
    engine.use(PolicyBundle({"a.rego": module, "f.rego": filters}, {}))
    found = await asyncio.gather(
        *(asyncio.to_thread(engine.evaluate, f'{{"n": {number}}}'.encode()) for number in range(50))
    )
    assert [answer["n"] for answer in found] == list(range(50))
    assert await engine.visible({"n": 1}) == [{"n": 1}]
    assert await engine.visible({"n": 2}) == []


# ---- limits


async def test_a_limit_lets_its_burst_through_and_then_one_at_a_time() -> None:
    clock = Clock()
    limiter = RateLimiter(None, now=clock)
    limit = Limit("k", per_second=1, burst=3)
    for _ in range(3):
        await limiter.take([limit])
    with pytest.raises(ResourceExhausted) as refusal:
        await limiter.take([limit])
    assert refusal.value.retry_after_s == pytest.approx(1.0)
    clock.at += 1
    await limiter.take([limit])


async def test_a_request_is_charged_to_every_limit_or_to_none() -> None:
    limiter = RateLimiter(None, now=Clock())
    wide, narrow = Limit("w", per_second=1, burst=10), Limit("n", per_second=1, burst=1)
    await limiter.take([wide, narrow])
    for _ in range(5):
        with pytest.raises(ResourceExhausted):
            await limiter.take([wide, narrow])
    for _ in range(9):
        await limiter.take([wide])


async def test_leases_of_a_high_limit_never_exceed_it() -> None:
    clock = Clock()
    limiter = RateLimiter(None, now=clock)
    limit = Limit("k", per_second=1000, burst=500)
    assert limit.lease == 10
    taken = 0
    try:
        for _ in range(2000):
            await limiter.take([limit])
            taken += 1
    except ResourceExhausted:
        pass
    assert taken == 500


async def test_only_the_first_decision_of_a_request_is_charged() -> None:
    answer = document()
    access = Access(
        LocalDecisionPoint(FakeEngine(answer), snapshot, now=Clock()),
        limits=RequestLimits(RateLimiter(None, now=Clock())),
    )
    for _ in range(2):
        start_request()
        for _ in range(4):
            await access.require(CALLER, "registry:model.create", MODEL)
    start_request()
    with pytest.raises(ResourceExhausted):
        await access.require(CALLER, "registry:model.create", MODEL)


def test_services_are_not_limited_and_predictions_are_limited_per_model() -> None:
    decision = Decision(True, (), "t", "d", "fake", rate_limit=RateLimit(60, 10))
    service = Caller("service:trainer", "service", "*", "internal_jwt", 0.0)
    assert limits_of(service, "inference:predict", MODEL, decision) == []
    one = limits_of(CALLER, "inference:predict", Resource("m", "models/a/versions/1"), decision)
    same = limits_of(CALLER, "inference:predict", Resource("m", "models/a/versions/2"), decision)
    other = limits_of(CALLER, "inference:predict", Resource("m", "models/b/versions/1"), decision)
    assert one == same != other


# ---- snapshots


def signing_key() -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": "gateway"})


class Source:
    """Gives what it holds."""

    def __init__(self, raw: bytes | None) -> None:
        self.raw = raw

    async def fetch(self, revision: int | None) -> bytes | None:
        return self.raw


def test_a_snapshot_reads_back_and_a_forged_one_does_not(secrets_dir: Path) -> None:
    key = OKPKey.import_key((secrets_dir / "gateway.pem").read_bytes())
    keys = public_keys(secrets_dir / "services.jwks.json")
    raw = encode_snapshot(snapshot(), key)
    assert decode_snapshot(raw, keys).revision == 1
    other = OKPKey.import_key((secrets_dir / "trainer.pem").read_bytes())
    for forged in (
        encode_snapshot(snapshot(), other),
        raw.replace(b'\\"revision\\":1', b'\\"revision\\":2'),
        b"{}",
        b"[]",
        b"not json",
    ):
        with pytest.raises(SnapshotRejected):
            decode_snapshot(forged, keys)


async def test_a_keeper_never_goes_back_and_starts_from_disk(secrets_dir: Path, tmp_path: Path) -> None:
    key = OKPKey.import_key((secrets_dir / "gateway.pem").read_bytes())
    keys = public_keys(secrets_dir / "services.jwks.json")
    file = SnapshotFile(tmp_path / "snapshot.json", keys)
    source = Source(encode_snapshot(snapshot(5), key))
    keeper = SnapshotKeeper(source, FakeEngine({}), file=file, keys=keys, redis=None)
    with pytest.raises(Unavailable):
        await keeper.ready()
    assert await keeper.refresh()
    await keeper.ready()
    source.raw = encode_snapshot(snapshot(4), key)
    with pytest.raises(SnapshotRejected):
        await keeper.refresh()
    held = keeper.current()
    assert held is not None
    assert held.revision == 5
    assert (tmp_path / "snapshot.json").stat().st_mode & 0o077 == 0
    second = SnapshotKeeper(Source(None), FakeEngine({}), file=file, keys=keys, redis=None)
    await second.restore()
    assert second.current() is not None
    assert time.monotonic() >= 0


# ---- list filters


def test_clauses_become_bound_parameters() -> None:
    table = Table("models", MetaData(), Column("tenant", Text), Column("path", Text))
    hostile = "x' OR 1=1 --"
    condition = visible_rows(
        [
            {"tenant": hostile, "namespaces": ["*"], "resources": ["models/50%_off/**", "models/a"]},
            {"tenant": "acme", "namespaces": ["*"], "resources": ["**"]},
        ],
        tenant=table.c.tenant,
        resource_id=table.c.path,
    )
    compiled = condition.compile()
    assert hostile not in str(compiled)
    assert hostile in compiled.params.values()
    assert any("50/%/_off" in str(value) for value in compiled.params.values())


def test_no_clause_lets_nothing_through_and_any_tenant_everything() -> None:
    table = Table("models", MetaData(), Column("tenant", Text))
    assert str(visible_rows([], tenant=table.c.tenant)) == "false"
    everything = [{"tenant": None, "namespaces": ["*"], "resources": ["**"]}]
    assert str(visible_rows(everything, tenant=table.c.tenant)) == "true"
    narrow = [{"tenant": "acme", "namespaces": ["*"], "resources": ["models/a"]}]
    assert "false" in str(visible_rows(narrow, tenant=table.c.tenant))
