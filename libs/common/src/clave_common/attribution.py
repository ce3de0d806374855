"""Which decision, and which broken glass, stand behind what the running request changes: the audit log names both.

The doors begin anew with each request, the enforcement point notes what it allowed, and whoever writes an audit entry
adds the decision on its action, or else the latest one. Work that no request asked for has none.
"""

from collections.abc import Mapping
from contextvars import ContextVar

from clave_contracts.events import AuditEntry

_allowed: ContextVar[dict[str, str] | None] = ContextVar("clave_allowed", default=None)
_glass: ContextVar[Mapping[str, str] | None] = ContextVar("clave_break_glass", default=None)


def begin(break_glass: Mapping[str, str] | None) -> None:
    """Begin a request.

    Args:
        break_glass: Ticket and reason that its caller claims for a change outside of its window.
    """
    _allowed.set({})
    _glass.set(break_glass)


def claimed_glass() -> Mapping[str, str] | None:
    """Ticket and reason that the running request's caller claims; the policy judges them."""
    return _glass.get()


def note_allowed(action: str, decision_id: str) -> None:
    """Note by which decision the running request goes on."""
    allowed = _allowed.get()
    if allowed is not None:
        allowed.pop(action, None)  # the latest stands last
        allowed[action] = decision_id


def attributed(entry: AuditEntry) -> AuditEntry:
    """Add the running request's decision, and the glass that it claimed to break, to an entry that names none."""
    allowed, glass = _allowed.get(), _glass.get()
    if entry.decision_id is not None or not allowed:
        return entry
    decision_id = allowed.get(entry.action) or next(reversed(allowed.values()))
    details = entry.details if glass is None else {**entry.details, "break_glass_claimed": dict(glass)}
    return entry.model_copy(update={"decision_id": decision_id, "details": details})
