"""Remembers read-only allows for the seconds that the policy gives them, and afterwards that it was an allow.

A question is everything the input is made of without its time. An answer holds for one revision of keys and policy: a
change of either ends every answer. Denials and mutations are never kept, and no answer is good for longer than the
caller's credential.
"""

from collections import OrderedDict

from clave_common.access.model import Caller, Decision

_ASKED_BYTES_MAX = 4_096

Question = tuple[Caller, str, str, str, bytes, bytes]
"""Caller, action, type and id of the resource, its properties and the context as JSON."""


class DecisionCache:
    """A bounded, least-recently-made cache; not for sharing between threads."""

    def __init__(self, *, entries_max: int = 20_000) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[Question, tuple[int, float, Decision]] = OrderedDict()

    def get(self, question: Question, *, revision: int, now: float) -> Decision | None:
        """Return an allow of this revision that is still good."""
        entry = self._entries.get(question)
        return None if entry is None or entry[0] != revision or entry[1] <= now else entry[2]

    def was_allowed(self, question: Question) -> bool:
        """Tell whether a question was allowed when it was asked last, by any revision; it may be asked, no more."""
        return question in self._entries

    def put(self, question: Question, decision: Decision, *, revision: int, now: float, expires_at: float) -> None:
        """Keep an allow until its time to live or the credential ends, whichever is first.

        One of audit level ``full`` is not kept: every such read is decided, and logged, by itself. Nor is the answer to
        a long question: an id may be as long as an address, and twenty thousand of them would fill the memory.
        """
        if decision.allow is not True:
            self._entries.pop(question, None)
            return
        if decision.cache_ttl_s <= 0 or decision.audit == "full":
            return
        if len(question[3]) + len(question[4]) + len(question[5]) > _ASKED_BYTES_MAX:
            return
        self._entries[question] = (revision, min(now + decision.cache_ttl_s, expires_at), decision)
        self._entries.move_to_end(question)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
