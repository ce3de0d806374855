"""The decision point of one service: builds the policy's input, reuses what may be reused, asks the engine.

Everything in the input comes from the enforcement point: the caller as authenticated, the resource as the service
knows it, the time as this machine has it. Nothing comes from the request's body.

A service that lost the gateway keeps answering from its last-known-good snapshot, within stated bounds: changes are
refused once it is older than `mutation_staleness_s`, reads once it is older than `read_staleness_s`, because a key or
a grant may have been withdrawn meanwhile.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clave_common.access.decision_cache import DecisionCache, Question
from clave_common.access.decision_log import DecisionLog
from clave_common.access.engine import PolicyEngine, encode_question, no_answer
from clave_common.access.model import Caller, Decision, RateLimit, Resource
from clave_common.access.refusals import Refusals
from clave_common.access.snapshot import Snapshot, no_snapshot
from clave_common.errors import Unavailable
from clave_common.ids import new_id

_SEEN_MAX = 5_000
_CONTEXT = ("running_jobs", "purpose", "subject_consents", "on_withheld", "break_glass")


@dataclass(frozen=True, slots=True)
class Staleness:
    """For how many seconds without contact to the gateway a service goes on deciding."""

    mutation_s: float = 120.0
    read_s: float = 86_400.0


class LocalDecisionPoint:
    """Decides in this process, or through OPA, by the snapshot in force."""

    def __init__(
        self,
        engine: PolicyEngine,
        snapshot: Callable[[], Snapshot | None],
        *,
        age_s: Callable[[], float] = lambda: 0.0,
        staleness: Staleness | None = None,
        log: DecisionLog | None = None,
        refusals: Refusals | None = None,
        settle_s: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Join the parts.

        Args:
            engine: Who evaluates the rules.
            snapshot: Keys and policy in force.
            age_s: Seconds since the gateway was heard.
            staleness: How old that may grow.
            log: Where decisions are noted.
            refusals: Who holds back whoever was refused too much; nobody when absent.
            settle_s: Seconds after a new snapshot in which the engine may still answer by the one before, because
                somebody else loads it; nothing is kept meanwhile.
            now: Seconds since the epoch.
        """
        self._engine = engine
        self._snapshot = snapshot
        self._age_s = age_s
        self._staleness = staleness or Staleness()
        self._log = log
        self._refusals = refusals
        self._now = now
        self._settle_s = settle_s
        self._revision, self._settled_at = -1, 0.0
        self._cache = DecisionCache()
        self._seen: OrderedDict[tuple[int, Caller, str], tuple[float, list[Mapping[str, Any]]]] = OrderedDict()

    async def decide(self, caller: Caller, action: str, resource: Resource, context: Mapping[str, Any]) -> Decision:
        """Answer, or raise Unavailable; an unanswered question is a deny.

        Raises:
            Unavailable: No snapshot, a snapshot too old for this action, or no answer from the engine.
            ResourceExhausted: The policy has refused this caller too much, and the answer is not one that it gave.
            InvalidArgument: The input holds something that JSON cannot say.
        """
        snapshot = self._snapshot()
        if snapshot is None:
            raise no_snapshot()
        mutating = snapshot.bundle.mutating(action)
        self._require_fresh(mutating=mutating)
        now = self._now()
        if mutating:
            await self._hold_back(caller)
            return await self._ask(policy_input(caller, action, resource, context), now, reading=False)
        asked, revision = _question(caller, action, resource, context), snapshot.revision
        known = self._cache.get(asked, revision=revision, now=now)
        if known is not None:
            return known
        if not self._cache.was_allowed(asked):
            await self._hold_back(caller)
        decision = await self._ask(policy_input(caller, action, resource, context), now, reading=True)
        expires_at = caller.expires_at if self._is_settled(revision, now) else now
        self._cache.put(asked, decision, revision=revision, now=now, expires_at=expires_at)
        return decision

    async def _hold_back(self, caller: Caller) -> None:
        if self._refusals is not None:
            await self._refusals.hold_back(caller)

    async def visible(self, caller: Caller, action: str) -> list[Mapping[str, Any]]:
        """Return the clauses by which a list of `action` is filtered for a caller; none means nothing is visible.

        They are kept as long as a read-only allow of the action would be: the policy says for how many seconds.
        """
        snapshot = self._snapshot()
        if snapshot is None:
            raise no_snapshot()
        self._require_fresh(mutating=False)
        now, key = self._now(), (snapshot.revision, caller, action)
        until, known = self._seen.get(key, (0.0, []))
        if now < until:
            return known
        clauses = await self._ask_visible(caller, action, now)
        kept_s = float(snapshot.bundle.data.get("catalog", {}).get(action, {}).get("cache_ttl_s", 0))
        if clauses and kept_s > 0 and self._is_settled(snapshot.revision, now):
            self._seen[key] = (min(now + kept_s, caller.expires_at), clauses)
            while len(self._seen) > _SEEN_MAX:
                self._seen.popitem(last=False)
        return clauses

    def _is_settled(self, revision: int, now: float) -> bool:
        if revision != self._revision:
            self._revision, self._settled_at = revision, now + self._settle_s
        return now >= self._settled_at

    async def _ask_visible(self, caller: Caller, action: str, now: float) -> list[Mapping[str, Any]]:
        question = policy_input(caller, action, Resource("list", "list", {"tenant": caller.tenant}), {})
        question["context"]["time"] = now
        return await self._engine.visible(question)

    async def _ask(self, question: dict[str, Any], now: float, *, reading: bool) -> Decision:
        question["context"]["time"] = now
        document = await self._engine.decide(question)
        decision = decision_from(document, self._engine.name)
        if self._log is not None:
            self._log.note(question, decision, reading=reading)
            if reading and decision.allow and decision.audit == "full":
                await self._log.sent()
        return decision

    def _require_fresh(self, *, mutating: bool) -> None:
        age_s = self._age_s()
        limit_s = self._staleness.mutation_s if mutating else self._staleness.read_s
        if age_s > limit_s:
            raise Unavailable(
                f"The gateway has not answered for {age_s:.0f} s; {'changes' if mutating else 'reads'} wait until it "
                "does, because a key or a grant may have been withdrawn meanwhile.",
                code="access_snapshot_stale",
                retry_after_s=5.0,
            )


def _question(caller: Caller, action: str, resource: Resource, context: Mapping[str, Any]) -> Question:
    """Name everything that the policy's input is made of, but its time; a third of the cost of writing the input.

    Raises:
        InvalidArgument: The input holds something that JSON cannot say.
    """
    asked = encode_question(context) if context else b""
    return caller, action, resource.type, resource.id, encode_question(resource.properties), asked


def policy_input(caller: Caller, action: str, resource: Resource, context: Mapping[str, Any]) -> dict[str, Any]:
    """Build the AuthZEN input without its time; unknown context keys are dropped."""
    asked = {name: context[name] for name in _CONTEXT if name in context}
    return {
        "subject": {
            "type": caller.subject_type,
            "id": caller.subject_id,
            "properties": {"tenant": caller.tenant, "groups": list(caller.groups)},
        },
        "action": {"name": action},
        "resource": {"type": resource.type, "id": resource.id, "properties": dict(resource.properties)},
        "context": {
            **asked,
            "source_ip": caller.source_ip,
            "auth": {
                "method": caller.method,
                "expires_at": caller.expires_at,
                "scopes": list(caller.scopes),
                "amr": list(caller.amr),
                "key_id": caller.key_id,
            },
        },
    }


def decision_from(document: Mapping[str, Any], engine: str) -> Decision:
    """Read an engine's document; only exactly true, with no reason against it, allows.

    Raises:
        Unavailable: The document is not a decision.
    """
    try:
        obligations = document["obligations"]
        reasons = tuple(sorted(str(reason) for reason in document["reasons"]))
        limit = obligations["rate_limit"]
        return Decision(
            allow=document["allow"] is True and not reasons,
            reasons=reasons,
            policy_version=str(document["policy_version"]),
            decision_id=new_id("dec"),
            engine=engine,
            rate_limit=RateLimit(per_minute=float(limit["per_minute"]), burst=float(limit["burst"])),
            mask=tuple(str(name) for name in obligations["mask"]),
            audit="sampled" if obligations["audit"] == "sampled" else "full",
            cache_ttl_s=float(obligations["cache_ttl_s"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise no_answer(engine, "the document is not a decision") from error
