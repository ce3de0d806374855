"""Slows down whoever keeps asking for what the policy refuses: a limit of refusals per credential.

A refusal costs a decision and an entry in the log of decisions, and it charges no other limit. So each one charges this
limit, counted here and in all processes together. Whoever has used it up is held back: a question that needs a fresh
decision gets the limit's refusal before the policy is asked, and leaves no entry, only a count. What the policy allowed
the last time it was asked goes on (`clave_common.access.decision_point`), so one wrong call in an application does not
end its right ones.

Once over, a credential is watched until its whole burst would have come back: meanwhile the shared count is looked at
before each question, so all processes together decide no more refusals than the limit gives. The answer to whoever is
held back says nothing of what was asked for, whether it exists or not. Services are not limited; nobody but the
installation's own key signs for one.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter

from clave_common.access.failed_attempts import FailedAttempts
from clave_common.access.model import Caller
from clave_common.access.ratelimit import Limit, RateLimiter
from clave_common.errors import ResourceExhausted
from clave_common.logs import get_logger

_WATCHED_MAX = 10_000
_MINUTE_S = 60.0
LIMIT_NAME = "refusals"
HELD_BACK = Counter(
    "clave_access_held_back_total",
    "Requests held back undecided, because the policy had refused too many of their credential's.",
    ["subject_type"],
)
_log = get_logger(__name__)


@dataclass(slots=True)
class _Watched:
    """A credential that was over its limit.

    Attributes:
        held_until: It is held back until then without another look, in seconds of the clock.
        watched_until: Its whole burst has come back by then.
        decision_id: Its newest refusal that is known, which explains what is wrong.
    """

    held_until: float
    watched_until: float
    decision_id: str | None


class Refusals:
    """Charges refusals and holds back whoever has too many.

    Args:
        limiter: Shared by all processes.
        per_minute: Refusals that a credential regains each minute, above 0.
        burst: Refusals that it may have at once, at least 1.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        per_minute: float = 60.0,
        burst: float = 60.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limiter = limiter
        self._per_minute = per_minute
        self._burst = burst
        self._now = now
        self._here = FailedAttempts(burst=burst, per_second=per_minute / _MINUTE_S, now=now)
        self._watched: OrderedDict[str, _Watched] = OrderedDict()

    async def note(self, caller: Caller, decision_id: str | None) -> None:
        """Charge one refusal, which was decided; the caller gets it as it is, the next one may not be asked about.

        The count of this process comes first and is exact at once, however many requests wait for the shared one.
        """
        if not is_limited(caller):
            return
        limit = self._limit_of(caller)
        wait_s = self._here.note(limit.key)
        if wait_s == 0:
            try:
                await self._limiter.take([limit])
            except ResourceExhausted as over:
                wait_s = over.retry_after_s or limit.interval_s
        watched = self._watched.get(limit.key)
        if wait_s > 0:
            self._watch(caller, limit, wait_s, decision_id)
        elif watched is not None:
            watched.decision_id = decision_id or watched.decision_id

    async def hold_back(self, caller: Caller) -> None:
        """Let a caller ask, unless it is over its limit.

        Raises:
            ResourceExhausted: It is; carries the limit's name and the wait.
        """
        if not self._watched or not is_limited(caller):
            return
        limit, now = self._limit_of(caller), self._now()
        watched = self._watched.get(limit.key)
        if watched is None:
            return
        if now >= watched.watched_until:
            self._watched.pop(limit.key, None)
            return
        if now >= watched.held_until:
            wait_s = await self._limiter.wait_s([limit])
            if wait_s == 0:
                return
            watched.held_until, watched.watched_until = now + wait_s, now + limit.tolerance_s
        HELD_BACK.labels(caller.subject_type).inc()
        raise self._refusal(caller, watched.held_until - now, watched.decision_id)

    def _limit_of(self, caller: Caller) -> Limit:
        who = caller.key_id or caller.subject_id
        return Limit(f"refused:{caller.tenant}:{who}", self._per_minute / _MINUTE_S, self._burst)

    def _watch(self, caller: Caller, limit: Limit, wait_s: float, decision_id: str | None) -> None:
        if limit.key not in self._watched:
            _log.warning(
                "refusals_over_limit", subject=caller.subject_id, key_id=caller.key_id, per_minute=self._per_minute
            )
        now = self._now()
        self._watched[limit.key] = _Watched(now + wait_s, now + limit.tolerance_s, decision_id)
        self._watched.move_to_end(limit.key)
        if len(self._watched) > _WATCHED_MAX:
            self._watched.popitem(last=False)

    def _refusal(self, caller: Caller, wait_s: float, decision_id: str | None) -> ResourceExhausted:
        which = f"'clave explain {decision_id}' tells" if decision_id else "the log of decisions tells"
        return ResourceExhausted(
            f"The policy refused {caller.subject_id} more than {self._per_minute:g} requests a minute, which is its "
            f"limit of refusals; nothing new is decided for this credential for {wait_s:.2f} s. Stop what asks for "
            f"more than it may: {which} what was refused and what would be needed.",
            code="rate_limited",
            retry_after_s=wait_s,
            limit=LIMIT_NAME,
            per_minute=self._per_minute,
            burst=self._burst,
            **({"decision_id": decision_id} if decision_id else {}),
        )


def is_limited(caller: Caller) -> bool:
    """Tell whether refusals of a caller count: of all but services, which sign their own tokens."""
    return caller.method != "internal_jwt"
