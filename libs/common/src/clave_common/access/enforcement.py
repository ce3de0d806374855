"""The question itself: may this caller do this to that?

`Access` is what operations and routes hold. It builds the policy's input from what the enforcement point knows,
asks the decision point, reuses read-only allows for as long as the policy says, and remembers that the running
request was decided, so that an answer without a decision can be refused.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol, cast

from starlette.applications import Starlette

from clave_common.access.model import Caller, Decision, Resource
from clave_common.errors import PermissionDenied, Unauthenticated

_decided: ContextVar[list[Decision] | None] = ContextVar("clave_decisions", default=None)
CALLER_KEY = "clave.caller"
APP_KEY = "clave_access"


class DecisionPoint(Protocol):
    """What answers a policy question: the embedded engine or a real OPA server."""

    async def decide(self, caller: Caller, action: str, resource: Resource, context: Mapping[str, Any]) -> Decision:
        """Answer, or raise Unavailable; an unanswered question is a deny."""
        ...


class Access:
    """The enforcement point of one service."""

    def __init__(self, decision_point: DecisionPoint) -> None:
        self._decision_point = decision_point

    def caller_of(self, scope: Mapping[str, Any]) -> Caller:
        """Give the caller that the middleware authenticated for this request.

        Raises:
            Unauthenticated: The request carried no valid credential.
        """
        caller = scope.get(CALLER_KEY)
        if not isinstance(caller, Caller):
            raise Unauthenticated(
                "This call needs a credential: send 'Authorization: Bearer <api key>'. "
                "Make a key with 'clave keys create'."
            )
        return caller

    async def check(self, caller: Caller, action: str, resource: Resource, **context: Any) -> Decision:
        """Ask without insisting: the answer may be no."""
        decision = await self._decision_point.decide(caller, action, resource, context)
        remember_decision(decision)
        return decision

    async def require(self, caller: Caller, action: str, resource: Resource, **context: Any) -> Decision:
        """Ask and insist.

        Raises:
            PermissionDenied: The policy said no; carries every reason and the decision's id.
            Unavailable: Nobody could decide.
        """
        decision = await self.check(caller, action, resource, **context)
        if decision.allow is not True:
            raise PermissionDenied(
                f"{caller.subject_id} may not {action} on {resource.id}: {', '.join(decision.reasons)}. "
                f"'clave explain {decision.decision_id}' tells what would be needed.",
                reasons=list(decision.reasons),
                decision_id=decision.decision_id,
                action=action,
                resource=resource.id,
            )
        return decision


def remember_decision(decision: Decision) -> None:
    """Note that the running request was decided."""
    decisions = _decided.get()
    if decisions is not None:
        decisions.append(decision)


def start_request() -> list[Decision]:
    """Begin to collect the decisions of a request (called by the doors)."""
    decisions: list[Decision] = []
    _decided.set(decisions)
    return decisions


def access_of(app: Starlette) -> Access:
    """Give the enforcement point that `install_access` put into an application."""
    return cast("Access", getattr(app.state, APP_KEY))


def install_access(app: Starlette, access: Access) -> None:
    """Put the enforcement point into an application, where `governed` finds it."""
    setattr(app.state, APP_KEY, access)
