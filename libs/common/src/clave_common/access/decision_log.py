"""The log of decisions: what was asked, what was answered, by which engine and policy, so that it can be run again.

Entries leave in batches through the service's Redis stream; the gateway keeps them for `clave explain`. A full
buffer drops the oldest entry and counts it. Denials and decisions of audit level ``full`` are all logged, sampled ones
in the share given and at least once a minute for each key, which is how the gateway knows when a key was last used.
The log never fails a request. It delays one kind: a read of audit level ``full`` waits until its entry has left this
process (`sent`), so that nobody has read what a crash then forgets; not longer than SENT_WAIT_S, because a hanging
Redis must not stop reads. Such an entry carries the audit entry that the read becomes, signed here
(`audit_signatures`): the gateway passes it on and could not write it in this service's name.
"""

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from clave_contracts.events import AuditEntry, decision_stream
from prometheus_client import Counter
from redis.asyncio import Redis

from clave_common.access.model import Decision
from clave_common.audit_signatures import AuditSigner
from clave_common.background import Background
from clave_common.redis_client import REDIS_AWAY

LOOP_NAME = "decision_log"
_STREAM_LENGTH_MAX = 20_000
_BATCH_MAX = 200
_IDLE_S = 0.5
SENT_WAIT_S = 0.25
_KEY_SEEN_S = 60.0
_KEYS_SEEN_MAX = 20_000

DECISIONS = Counter("clave_access_decisions_total", "Policy decisions by action and answer.", ["action", "answer"])
LATE = Counter(
    "clave_access_read_answered_before_logged_total",
    "Fully audited reads answered while Redis did not take their entry.",
)
DROPPED = Counter("clave_access_decision_log_dropped_total", "Decisions that found the log's buffer full.")


class DecisionLog:
    """Collects decisions of one service.

    Args:
        signer: Signs the reads that become audit entries; without it they become none.
        sampled_share: Share of allows of audit level ``sampled`` that are kept, in [0, 1].
        entries_max: Entries held while Redis is away.
    """

    def __init__(
        self,
        service: str,
        redis: Redis | None,
        signer: AuditSigner | None = None,
        *,
        sampled_share: float = 0.02,
        entries_max: int = 5_000,
    ) -> None:
        self._service = service
        self._stream = decision_stream(service)
        self._redis = redis
        self._signer = signer
        self._sampled_share = sampled_share
        self._entries: deque[bytes] = deque(maxlen=entries_max)
        self._keys_seen: dict[str, float] = {}
        self._noted = 0
        self._sent = 0
        self._sending = asyncio.Lock()
        self._random = random.Random()  # noqa: S311 - chooses samples, not secrets

    def note(self, question: Mapping[str, Any], decision: Decision, *, reading: bool = False) -> None:
        """Take one decision; returns at once.

        Args:
            question: What the policy was asked.
            decision: What it answered.
            reading: The action changes nothing; what does writes its audit entry itself, with what it changed.
        """
        DECISIONS.labels(question["action"]["name"], "allow" if decision.allow else "deny").inc()
        passed_over = decision.allow and decision.audit == "sampled" and self._random.random() >= self._sampled_share
        if not self._key_due(question["context"]) and passed_over:
            return
        if len(self._entries) == self._entries.maxlen:
            DROPPED.inc()
            self._sent += 1
        self._noted += 1
        record = decision_record(self._service, question, decision)
        if reading and decision.allow and decision.audit == "full" and self._signer is not None:
            record["read"] = orjson.Fragment(self._signer.signed(read_entry(record)))
        self._entries.append(orjson.dumps(record))

    def _key_due(self, context: Mapping[str, Any]) -> bool:
        """Tell whether a key's use is news, and remember it."""
        key_id, now = context["auth"]["key_id"], context["time"]
        if key_id is None or now - self._keys_seen.get(key_id, 0.0) < _KEY_SEEN_S:
            return False
        if len(self._keys_seen) >= _KEYS_SEEN_MAX:
            self._keys_seen.clear()
        self._keys_seen[key_id] = now
        return True

    async def run(self, background: Background) -> None:
        """Send what has gathered until cancelled."""
        while True:
            await asyncio.sleep(_IDLE_S)
            try:
                await self.flush()
            except REDIS_AWAY:
                continue
            background.healthy(LOOP_NAME)

    async def sent(self) -> None:
        """Wait until everything noted so far has left this process, or SENT_WAIT_S have passed."""
        upto = self._noted
        if self._redis is None:
            return
        try:
            async with asyncio.timeout(SENT_WAIT_S):
                while self._sent < upto:
                    await self.flush()
        except (TimeoutError, *REDIS_AWAY):
            LATE.inc()

    async def flush(self) -> int:
        """Send one batch; returns its size. Whoever waits meanwhile finds its entry in the batch of another."""
        async with self._sending:
            if self._redis is None or not self._entries:
                return 0
            batch = [self._entries.popleft() for _ in range(min(len(self._entries), _BATCH_MAX))]
            try:
                await self._send(self._redis, batch)
            except BaseException:
                self._put_back(batch)
                raise
            self._sent += len(batch)
            return len(batch)

    async def _send(self, redis: Redis, batch: list[bytes]) -> None:
        pipeline = redis.pipeline(transaction=False)
        for body in batch:
            pipeline.xadd(
                self._stream,
                {"id": orjson.loads(body)["id"], "body": body},
                maxlen=_STREAM_LENGTH_MAX,
                approximate=True,
            )
        await pipeline.execute()

    def _put_back(self, batch: list[bytes]) -> None:
        """Return what was not sent to the front, as far as there is room."""
        room = (self._entries.maxlen or 0) - len(self._entries)
        kept = batch[max(len(batch) - room, 0) :]
        DROPPED.inc(len(batch) - len(kept))
        self._sent += len(batch) - len(kept)
        self._entries.extendleft(reversed(kept))


def read_entry(record: Mapping[str, Any]) -> bytes:
    """Write the audit entry of an allowed read; its id follows from the decision's, so that the log takes it once."""
    subject = record["input"]["subject"]["properties"]
    return (
        AuditEntry(
            id=f"read_{record['id']}",
            time=datetime.fromtimestamp(record["time"], UTC),
            service=record["service"],
            actor=record["subject"],
            tenant=str(subject.get("tenant") or "unknown"),
            action=record["action"],
            resource=record["resource"],
            decision_id=record["id"],
            details={"input_digest": record["input_digest"]},
        )
        .model_dump_json()
        .encode()
    )


def decision_record(service: str, question: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    """Write one decision with its whole input, which holds names and flags but no credential and no feature value."""
    canonical = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
    return {
        "id": decision.decision_id,
        "service": service,
        "time": question["context"]["time"],
        "subject": question["subject"]["id"],
        "action": question["action"]["name"],
        "resource": question["resource"]["id"],
        "allow": decision.allow,
        "audit": decision.audit,
        "reasons": decision.reasons,
        "policy_version": decision.policy_version,
        "engine": decision.engine,
        "input": question,
        "input_digest": f"sha256:{hashlib.sha256(canonical).hexdigest()}",
    }
