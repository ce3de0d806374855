"""Routes by which people change policies, alerts and decisions."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

import orjson
from clave_common.access import Caller, Resource, governed
from clave_common.errors import InvalidArgument
from clave_contracts import monitor as contract
from clave_contracts.schema import Answer, Name, Request
from fastapi import APIRouter, Header
from pydantic import Field
from starlette.responses import Response

from clave_monitor.api.operations import Operations
from clave_monitor.api.outcomes import aware

_ENDPOINT = f"{contract.API}/endpoints/{{endpoint}}"
_ID = "endpoints/{endpoint}"
_WRITE = "drift:monitor.write"
Require = Callable[[Caller, str, str], Awaitable[None]]
IfMatch = Annotated[str | None, Header(alias="if-match")]


class Snooze(Request):
    """Until when an alert is to be silent."""

    until: datetime


class ApprovalAnswer(Request):
    """A person's answer to a retraining that waits for one."""

    approved: bool
    comment: str = Field(default="", max_length=1000)


class Evaluated(Answer):
    """What an evaluation on demand did."""

    windows: int


def governing_routes(operations: Operations) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["monitor"])
    governing = operations.governing

    async def require(caller: Caller, endpoint: str, action: str = _WRITE) -> None:
        """Ask with the endpoint's namespace, which only the operation knows."""
        known = await operations.reporting.endpoint(endpoint)
        properties: dict[str, Any] = {"tenant": caller.tenant}
        if known is not None and known.namespace is not None:
            properties["namespace"] = known.namespace
        kind = action.partition(":")[2].partition(".")[0]
        await operations.access.require(caller, action, Resource(kind, f"endpoints/{endpoint}", properties))

    @router.get(
        f"{_ENDPOINT}/policy",
        response_model=contract.RetrainingPolicy,
        summary="When is it retrained?",
        dependencies=[governed("drift:report.read", resource_id=_ID)],
    )
    async def get_policy(endpoint: str) -> Response:
        return _with_etag(*await operations.reporting.policy(endpoint))

    @router.put(f"{_ENDPOINT}/policy", response_model=contract.RetrainingPolicy, summary="Set when it is retrained")
    async def put_policy(
        endpoint: Name,
        body: contract.RetrainingPolicy,
        if_match: IfMatch = None,
        caller: Caller = governed(_WRITE, resource_id=_ID, in_operation=True),
    ) -> Response:
        await require(caller, endpoint)
        stored = await governing.set_policy(endpoint, body, caller=caller, if_revision=_revision(if_match))
        operations.wake_up.ring()
        return _with_etag(*stored)

    @router.post(f"{_ENDPOINT}/evaluate", summary="Evaluate now, even a partial window")
    async def evaluate(
        endpoint: str, caller: Caller = governed(_WRITE, resource_id=_ID, in_operation=True)
    ) -> Evaluated:
        await require(caller, endpoint)
        closed = 0
        for key in await operations.reporting.all_keys(endpoint):
            closed += await operations.evaluation.evaluate(key, force=True)
        return Evaluated(windows=closed)

    @router.post(
        f"{contract.API}/decisions/{{decision_id}}/answer",
        response_model=contract.Decision,
        summary="Approve or deny a retraining that waits for a person",
    )
    async def answer(
        decision_id: str,
        body: ApprovalAnswer,
        caller: Caller = governed(_WRITE, resource_id="decisions/{decision_id}", in_operation=True),
    ) -> contract.Decision:
        await require(caller, await operations.governing.endpoint_of(decision_id))
        decision, key = await governing.answer(decision_id, caller=caller, approved=body.approved, comment=body.comment)
        await operations.evaluation.evaluate(key, force=True)
        return decision

    _alert_routes(router, operations, require)
    return router


def _alert_routes(router: APIRouter, operations: Operations, require: Require) -> None:
    alert = f"{contract.API}/alerts/{{alert_id}}"
    change = operations.governing.change_alert

    async def require_for(caller: Caller, alert_id: str, action: str) -> None:
        """Ask about the endpoint that the alert is about: who speaks for one environment silences no other."""
        await require(caller, await operations.governing.endpoint_of_alert(alert_id), action)

    @router.post(f"{alert}/acknowledge", response_model=contract.Alert, summary="Somebody looks at it")
    async def acknowledge(
        alert_id: str, caller: Caller = governed("drift:alert.acknowledge", in_operation=True)
    ) -> contract.Alert:
        await require_for(caller, alert_id, "drift:alert.acknowledge")
        return await change(alert_id, caller=caller, state="acknowledged")

    @router.post(f"{alert}/snooze", response_model=contract.Alert, summary="Be silent until a time")
    async def snooze(
        alert_id: str, body: Snooze, caller: Caller = governed("drift:alert.snooze", in_operation=True)
    ) -> contract.Alert:
        await require_for(caller, alert_id, "drift:alert.snooze")
        until = aware(body.until, "until")
        if until is None or until <= operations.clock.now():
            raise InvalidArgument("'until' lies in the past.", field="until")
        return await change(alert_id, caller=caller, state="snoozed", snoozed_until=until)

    @router.post(f"{alert}/resolve", response_model=contract.Alert, summary="Close it and start afresh")
    async def resolve(
        alert_id: str, caller: Caller = governed("drift:alert.write", in_operation=True)
    ) -> contract.Alert:
        await require_for(caller, alert_id, "drift:alert.write")
        return await change(alert_id, caller=caller, state="resolved")


def _with_etag(policy: contract.RetrainingPolicy, revision: int) -> Response:
    return Response(
        orjson.dumps(policy.model_dump(mode="json")),
        media_type="application/json",
        headers={"etag": f'"{revision}"'},
    )


def _revision(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isdigit():
        raise InvalidArgument("If-Match is no ETag of a policy; read the policy again.", field="If-Match")
    return int(text)
