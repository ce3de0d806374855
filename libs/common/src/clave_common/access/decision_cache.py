"""Remembers read-only allows for the seconds that the policy gives them, and afterwards that it was an allow.

The key is everything the input is made of without its time, plus the revision of keys and policy; so a change of either
forgets everything. Denials and mutations are never kept, and no entry is good for longer than the caller's credential.
"""

from collections import OrderedDict

from clave_common.access.model import Caller, Decision

_ASKED_BYTES_MAX = 4_096

CacheKey = tuple[int, Caller, str, str, str, bytes, bytes]
"""Revision of keys and policy, caller, action, type and id of the resource, its properties and the context as JSON."""


class DecisionCache:
    """A bounded, least-recently-made cache; not for sharing between threads."""

    def __init__(self, *, entries_max: int = 20_000) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[CacheKey, tuple[float, Decision]] = OrderedDict()

    def get(self, key: CacheKey, now: float) -> Decision | None:
        """Return an allow that is still good."""
        entry = self._entries.get(key)
        return None if entry is None or entry[0] <= now else entry[1]

    def was_allowed(self, key: CacheKey) -> bool:
        """Tell whether a question was allowed when it was asked last; it may be asked again, no more."""
        return key in self._entries

    def put(self, key: CacheKey, decision: Decision, *, now: float, expires_at: float) -> None:
        """Keep an allow until its time to live or the credential ends, whichever is first.

        One of audit level ``full`` is not kept: every such read is decided, and logged, by itself. Nor is the answer to
        a long question: an id may be as long as an address, and twenty thousand of them would fill the memory.
        """
        if decision.allow is not True:
            self._entries.pop(key, None)
            return
        if decision.cache_ttl_s <= 0 or decision.audit == "full":
            return
        if len(key[4]) + len(key[5]) + len(key[6]) > _ASKED_BYTES_MAX:
            return
        self._entries[key] = (min(now + decision.cache_ttl_s, expires_at), decision)
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
