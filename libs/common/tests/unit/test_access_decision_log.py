"""What is read at audit level full has left the process before the answer does, and no entry is sent twice or lost."""

import asyncio
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from clave_common.access import decision_log
from clave_common.access.decision_log import DecisionLog
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.model import Caller, Resource
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import Snapshot
from redis.exceptions import ConnectionError as RedisConnectionError

CALLER = Caller("user:anna", "user", "acme", "oidc", expires_at=2_000_000_000.0)
KEYS = Resource("key", "keys", {"tenant": "acme"})
BUNDLE = PolicyBundle({}, {"catalog": {"admin:key.list": {"mutating": False}, "admin:key.create": {"mutating": True}}})


class Engine:
    """Allows everything, at an audit level."""

    name = "fake"

    def __init__(self, audit: str = "full") -> None:
        self.audit = audit

    async def decide(self, question: Any) -> Any:
        limits = {"rate_limit": {"per_minute": 60, "burst": 2}, "mask": [], "audit": self.audit, "cache_ttl_s": 5}
        return {"allow": True, "reasons": [], "policy_version": "t", "obligations": limits}


class Stream:
    """A Redis that keeps what is added, unless it is away or hangs."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.away = False
        self.free = asyncio.Event()
        self.free.set()
        self._waiting: list[str] = []

    def pipeline(self, *, transaction: bool) -> "Stream":
        assert not transaction
        self._waiting = []
        return self

    def xadd(self, _stream: str, fields: dict[str, Any], **_bounds: Any) -> None:
        self._waiting.append(orjson.loads(fields["body"])["id"])

    async def execute(self) -> None:
        sending = self._waiting
        await self.free.wait()
        if self.away:
            raise RedisConnectionError
        self.ids += sending


def point(stream: Stream, *, audit: str = "full", entries_max: int = 5_000) -> tuple[LocalDecisionPoint, DecisionLog]:
    log = DecisionLog("t", stream, sampled_share=1.0, entries_max=entries_max)  # type: ignore[arg-type]
    held = Snapshot(1, 0.0, MappingProxyType({}), BUNDLE)
    return LocalDecisionPoint(Engine(audit), lambda: held, log=log), log  # type: ignore[arg-type]


async def test_a_fully_audited_read_is_answered_after_its_entry_has_left() -> None:
    stream = Stream()
    decides, _ = point(stream)
    decisions = [await decides.decide(CALLER, "admin:key.list", KEYS, {}) for _ in range(3)]
    assert stream.ids == [decision.decision_id for decision in decisions]


async def test_sampled_reads_and_changes_do_not_wait() -> None:
    for audit, action in (("sampled", "admin:key.list"), ("full", "admin:key.create")):
        stream = Stream()
        stream.free.clear()
        decides, _ = point(stream, audit=audit)
        assert (await decides.decide(CALLER, action, KEYS, {})).allow


async def test_reads_at_once_share_their_way() -> None:
    stream = Stream()
    decides, _ = point(stream)
    decisions = await asyncio.gather(*(decides.decide(CALLER, "admin:key.list", KEYS, {}) for _ in range(50)))
    assert sorted(stream.ids) == sorted(decision.decision_id for decision in decisions)


@pytest.mark.parametrize("hangs", [True, False])
async def test_reads_go_on_without_redis_and_their_entries_leave_later(
    monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    monkeypatch.setattr(decision_log, "SENT_WAIT_S", 0.01)
    stream = Stream()
    stream.away = not hangs
    if hangs:
        stream.free.clear()
    decides, log = point(stream)
    late = decision_log.LATE._value.get()
    first = await decides.decide(CALLER, "admin:key.list", KEYS, {})
    assert decision_log.LATE._value.get() == late + 1
    assert stream.ids == []
    stream.away = False
    stream.free.set()
    second = await decides.decide(CALLER, "admin:key.list", KEYS, {})
    assert stream.ids == [first.decision_id, second.decision_id]
    assert await log.flush() == 0


async def test_a_full_buffer_drops_the_oldest_and_nobody_waits_for_it() -> None:
    stream = Stream()
    stream.away = True
    decides, log = point(stream, entries_max=2)
    made = [(await decides.decide(CALLER, "admin:key.list", KEYS, {})).decision_id for _ in range(4)]
    stream.away = False
    await log.sent()
    assert stream.ids == made[2:]


async def test_a_keys_use_is_told_once_a_minute_whatever_is_sampled() -> None:
    stream = Stream()
    log = DecisionLog("t", stream, sampled_share=0.0)  # type: ignore[arg-type]
    held, clock = Snapshot(1, 0.0, MappingProxyType({}), BUNDLE), [1_800_000_000.0]
    decides = LocalDecisionPoint(
        Engine("sampled"),  # type: ignore[arg-type]
        lambda: held,
        log=log,
        now=lambda: clock[0],
    )
    told = []
    for key_id, seconds in [("k1", 0), ("k1", 59), ("k2", 0), (None, 0), ("k1", 1), ("k1", 30)]:
        clock[0] += seconds
        caller = Caller("user:anna", "user", "acme", "api_key", expires_at=2_000_000_000.0, key_id=key_id)
        await decides.decide(caller, "admin:key.list", Resource("key", f"keys/{clock[0]}", {}), {})
        told.append(await log.flush())
    assert told == [1, 0, 1, 0, 1, 0]
