"""The question itself: may this caller do this to that?

`Access` is what operations and routes hold. It builds the policy's input from what the enforcement point knows,
asks the decision point, reuses read-only allows for as long as the policy says, and remembers that the running
request was decided, so that an answer without a decision can be refused.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol, cast

from starlette.applications import Starlette

from clave_common.access.model import Caller, Decision, Resource
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.refusals import Refusals
from clave_common.access.request_limits import RequestLimits
from clave_common.access.snapshot import Snapshot, no_snapshot
from clave_common.attribution import begin, claimed_glass, note_allowed
from clave_common.errors import PermissionDenied, Unauthenticated


class Decided(list[Decision]):
    """The decisions of a request.

    Attributes:
        is_charged: Whether one of them was charged to the caller's rate limit.
    """

    is_charged = False


_decided: ContextVar[Decided | None] = ContextVar("clave_decisions", default=None)
_GLASS_CHARACTERS_MAX = 500
CALLER_KEY = "clave.caller"
APP_KEY = "clave_access"


class DecisionPoint(Protocol):
    """What answers a policy question: the embedded engine or a real OPA server."""

    async def decide(self, caller: Caller, action: str, resource: Resource, context: Mapping[str, Any]) -> Decision:
        """Answer, or raise Unavailable; an unanswered question is a deny."""
        ...

    async def visible(self, caller: Caller, action: str) -> list[Mapping[str, Any]]:
        """Return the clauses by which a list is filtered; none means that nothing is visible."""
        ...


class Access:
    """The enforcement point of one service."""

    def __init__(
        self,
        decision_point: DecisionPoint,
        *,
        limits: RequestLimits | None = None,
        refusals: Refusals | None = None,
        snapshot: Callable[[], Snapshot | None] = lambda: None,
        tenant: str | None = None,
    ) -> None:
        """Join the parts.

        Args:
            decision_point: Who decides.
            limits: Who charges rate limits; nobody when absent.
            refusals: Who charges refusals; nobody when absent. The decision point holds back by the same.
            snapshot: The policy in force.
            tenant: The one tenant whose data the service holds: every resource is that tenant's, whatever an
                operation says, and everybody else's caller is refused. None where the service tells tenants apart.
        """
        self._decision_point = decision_point
        self._tenant = tenant
        self._limits = limits
        self._refusals = refusals
        self._snapshot = snapshot

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
        if self._tenant is not None:
            resource = replace(resource, properties={**resource.properties, "tenant": self._tenant})
        glass = claimed_glass()
        if glass is not None:
            context = {"break_glass": glass, **context}
        decision = await self._decision_point.decide(caller, action, resource, context)
        remember_decision(decision)
        return decision

    async def require(self, caller: Caller, action: str, resource: Resource, **context: Any) -> Decision:
        """Ask and insist.

        The first allow of a request that is insisted on is also what charges the caller's rate limit.

        Raises:
            PermissionDenied: The policy said no; carries every reason and the decision's id.
            ResourceExhausted: The policy allows, and the caller's rate limit is used up; or it refused the caller too
                much before to be asked.
            Unavailable: Nobody could decide.
        """
        decision = await self.check(caller, action, resource, **context)
        if decision.allow is not True:
            raise await self.refused(caller, action, resource, decision)
        note_allowed(action, decision.decision_id)
        decided = _decided.get()
        if self._limits is not None and not (decided is not None and decided.is_charged):
            await self._limits.charge(caller, action, resource, decision)
            if decided is not None:
                decided.is_charged = True
        return decision

    async def refused(self, caller: Caller, action: str, resource: Resource, decision: Decision) -> PermissionDenied:
        """Charge a refusal to its caller, and word it with every reason; for whoever asked by `check`."""
        await self.charge_refusal(caller, decision.decision_id)
        return PermissionDenied(
            f"{caller.subject_id} may not {action} on {resource.id}: {', '.join(decision.reasons)}. "
            f"'clave explain {decision.decision_id}' tells what would be needed.",
            reasons=list(decision.reasons),
            decision_id=decision.decision_id,
            action=action,
            resource=resource.id,
        )

    async def charge_refusal(self, caller: Caller, decision_id: str | None = None) -> None:
        """Charge a refusal that is worded as something else, for example as 404.

        Args:
            caller: Who was refused.
            decision_id: What explains it, where the caller may know.
        """
        if self._refusals is not None:
            await self._refusals.note(caller, decision_id)

    async def hold_back(self, caller: Caller) -> None:
        """Refuse a caller that was refused too much; for answers that come before a decision or without one.

        Raises:
            ResourceExhausted: It was; the answer that it would have had must not leave.
        """
        if self._refusals is not None:
            await self._refusals.hold_back(caller)

    async def visible(self, caller: Caller, action: str) -> list[Mapping[str, Any]]:
        """Return the clauses by which a list is filtered for a caller (see `clave_common.access.filters`).

        An empty list means that nothing is visible.
        """
        return await self._decision_point.visible(caller, action)

    def policy_data(self) -> Mapping[str, Any]:
        """Return the data that the policy in force decides by: catalogue, roles, namespaces, limits, settings.

        Raises:
            Unavailable: There is no copy of the policy yet.
        """
        return self._bundle().data

    def policy_modules(self) -> Mapping[str, str]:
        """Return the rules in force, Rego text by file name.

        Raises:
            Unavailable: There is no copy of the policy yet.
        """
        return self._bundle().modules

    def _bundle(self) -> PolicyBundle:
        snapshot = self._snapshot()
        if snapshot is None:
            raise no_snapshot()
        return snapshot.bundle

    def namespace_rules(self, namespace: str) -> Mapping[str, Any]:
        """Return what the policy demands of a namespace: ``min_approvals``, ``require_gate``, ``windows``...

        An unknown namespace has no rules: an empty mapping, and every decision that needs one denies.

        Raises:
            Unavailable: There is no copy of the policy yet.
        """
        rules = self.policy_data().get("namespaces", {}).get(namespace, {})
        return rules if isinstance(rules, Mapping) else {}


def remember_decision(decision: Decision) -> None:
    """Note that the running request was decided."""
    decisions = _decided.get()
    if decisions is not None:
        decisions.append(decision)


def start_request(*, break_glass: str | None = None) -> Decided:
    """Begin to collect the decisions of a request (called by the doors).

    Args:
        break_glass: What the caller claims for a change outside of its window, ticket first; the policy judges it.
    """
    decisions = Decided()
    _decided.set(decisions)
    begin(_claim(break_glass) if break_glass else None)
    return decisions


def _claim(text: str) -> dict[str, str]:
    ticket, _, reason = text[:_GLASS_CHARACTERS_MAX].strip().partition(" ")
    return {"ticket": ticket, "reason": reason}


def access_of(app: Starlette) -> Access:
    """Give the enforcement point that `install_access` put into an application."""
    return cast("Access", getattr(app.state, APP_KEY))


def install_access(app: Starlette, access: Access) -> None:
    """Put the enforcement point into an application, where `governed` finds it."""
    setattr(app.state, APP_KEY, access)
