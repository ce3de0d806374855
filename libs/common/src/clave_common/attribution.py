"""Which decision, and which broken glass, stand behind what the running request changes: the audit log names both.

The doors begin anew with each request, the enforcement point notes what it allowed last, and whoever writes an audit
entry adds it. Work that no request asked for has neither.
"""

from collections.abc import Mapping
from contextvars import ContextVar

from clave_contracts.events import AuditEntry

_decision: ContextVar[str | None] = ContextVar("clave_decision_behind", default=None)
_glass: ContextVar[Mapping[str, str] | None] = ContextVar("clave_break_glass", default=None)


def begin(break_glass: Mapping[str, str] | None) -> None:
    """Begin a request.

    Args:
        break_glass: Ticket and reason that its caller claims for a change outside of its window.
    """
    _decision.set(None)
    _glass.set(break_glass)


def claimed_glass() -> Mapping[str, str] | None:
    """Ticket and reason that the running request's caller claims; the policy judges them."""
    return _glass.get()


def note_allowed(decision_id: str) -> None:
    """Note by which decision the running request goes on."""
    _decision.set(decision_id)


def attributed(entry: AuditEntry) -> AuditEntry:
    """Add the running request's decision and broken glass to an audit entry that names no decision."""
    decision_id, glass = _decision.get(), _glass.get()
    if entry.decision_id is not None or decision_id is None:
        return entry
    details = entry.details if glass is None else {**entry.details, "break_glass": dict(glass)}
    return entry.model_copy(update={"decision_id": decision_id, "details": details})
