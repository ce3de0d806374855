"""The log of decisions: what was asked, what was answered, by which engine and policy, so that it can be run again.

Entries leave in batches through the Redis stream `clave.decisions`; the gateway keeps them for `clave explain`. The
log never delays and never fails a request: a full buffer drops the oldest entry and counts it. Denials and decisions
of audit level ``full`` are all logged, sampled ones in the share given.
"""

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Mapping
from typing import Any

import orjson
from prometheus_client import Counter
from redis.asyncio import Redis

from clave_common.access.model import Decision
from clave_common.background import Background
from clave_common.redis_client import REDIS_AWAY

DECISION_STREAM = "clave.decisions"
LOOP_NAME = "decision_log"
_STREAM_LENGTH_MAX = 20_000
_BATCH_MAX = 200
_IDLE_S = 0.5

DECISIONS = Counter("clave_access_decisions_total", "Policy decisions by action and answer.", ["action", "answer"])
DROPPED = Counter("clave_access_decision_log_dropped_total", "Decisions that found the log's buffer full.")


class DecisionLog:
    """Collects decisions of one service.

    Args:
        sampled_share: Share of allows of audit level ``sampled`` that are kept, in [0, 1].
        entries_max: Entries held while Redis is away.
    """

    def __init__(
        self, service: str, redis: Redis | None, *, sampled_share: float = 0.02, entries_max: int = 5_000
    ) -> None:
        self._service = service
        self._redis = redis
        self._sampled_share = sampled_share
        self._entries: deque[bytes] = deque(maxlen=entries_max)
        self._random = random.Random()  # noqa: S311 - chooses samples, not secrets

    def note(self, question: Mapping[str, Any], decision: Decision) -> None:
        """Take one decision; returns at once."""
        DECISIONS.labels(question["action"]["name"], "allow" if decision.allow else "deny").inc()
        if decision.allow and decision.audit == "sampled" and self._random.random() >= self._sampled_share:
            return
        if len(self._entries) == self._entries.maxlen:
            DROPPED.inc()
        self._entries.append(decision_record(self._service, question, decision))

    async def run(self, background: Background) -> None:
        """Send what has gathered until cancelled."""
        while True:
            await asyncio.sleep(_IDLE_S)
            try:
                await self.flush()
            except REDIS_AWAY:
                continue
            background.healthy(LOOP_NAME)

    async def flush(self) -> int:
        """Send one batch; returns its size."""
        if self._redis is None or not self._entries:
            return 0
        batch = [self._entries[index] for index in range(min(len(self._entries), _BATCH_MAX))]
        pipeline = self._redis.pipeline(transaction=False)
        for body in batch:
            pipeline.xadd(
                DECISION_STREAM,
                {"id": orjson.loads(body)["id"], "body": body},
                maxlen=_STREAM_LENGTH_MAX,
                approximate=True,
            )
        await pipeline.execute()
        for _ in batch:
            self._entries.popleft()
        return len(batch)


def decision_record(service: str, question: Mapping[str, Any], decision: Decision) -> bytes:
    """Write one decision with its whole input, which holds names and flags but no credential and no feature value."""
    canonical = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
    return orjson.dumps(
        {
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
    )
