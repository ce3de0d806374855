"""Routes of endpoints and rollouts, and what inference reads and reports."""

from datetime import datetime
from typing import Annotated

from clave_common.access import Caller, governed
from clave_common.errors import InvalidArgument
from clave_common.idempotency import answer_once
from clave_common.pages import PageSize, PageToken
from clave_common.pages import page_size as bounded_page_size
from clave_contracts import registry as contract
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import IfMatch, Reason, answer, revision_of

_ENDPOINTS = f"{contract.API}/endpoints"
_ENDPOINT = f"{_ENDPOINTS}/{{endpoint}}"
_ROLLOUT = f"{contract.API}/rollouts/{{rollout_id}}"
_ID = "endpoints/{endpoint}"


def endpoint_routes(operations: Operations) -> APIRouter:
    """Build the routes of endpoints."""
    router = APIRouter(tags=["endpoints"])
    endpoints = operations.endpoints

    @router.post(_ENDPOINTS, status_code=201, response_model=contract.Endpoint, summary="Create an endpoint")
    async def create_endpoint(
        body: contract.EndpointCreate,
        request: Request,
        caller: Caller = governed("inference:deployment.create", in_operation=True),
    ) -> Response:
        async def create() -> Response:
            return answer(await endpoints.create(caller, body), status=201)

        return await answer_once(
            operations.database,
            request,
            principal=caller.subject_id,
            answer=create,
            repeat=lambda: endpoints.require_read(caller, body.name),
        )

    @router.get(_ENDPOINTS, summary="List endpoints by name")
    async def list_endpoints(
        page_size: PageSize = 50,
        page_token: PageToken = None,
        caller: Caller = governed("inference:deployment.read", listing=True),
    ) -> Response:
        shown, following = await endpoints.list_page(caller, size=bounded_page_size(page_size), token=page_token)
        return answer({"endpoints": [e.model_dump(mode="json") for e in shown], "next_page_token": following})

    @router.get(_ENDPOINT, response_model=contract.Endpoint, summary="Describe an endpoint")
    async def get_endpoint(
        endpoint: str, caller: Caller = governed("inference:deployment.read", resource_id=_ID)
    ) -> Response:
        return _with_etag(await endpoints.get(caller, endpoint))

    @router.get(f"{_ENDPOINT}/history", summary="Which version answered when, approved by whom, made from what?")
    async def endpoint_history(
        endpoint: str,
        at: Annotated[datetime | None, Query(description="Only the version that answered then.")] = None,
        page_size: PageSize = 50,
        page_token: PageToken = None,
        caller: Caller = governed("inference:deployment.read", resource_id=_ID),
    ) -> Response:
        if at is not None and at.tzinfo is None:
            raise InvalidArgument("'at' needs a time zone, for example 2026-11-22T08:00:00Z.", field="at")
        entries, following = await endpoints.history(
            caller, endpoint, at=at, size=bounded_page_size(page_size), token=page_token
        )
        return answer({"entries": [e.model_dump(mode="json") for e in entries], "next_page_token": following})

    @router.post(f"{_ENDPOINT}/roll-back", response_model=contract.Endpoint, summary="Go back now")
    async def roll_back(
        endpoint: str,
        body: Reason,
        if_match: IfMatch = None,
        caller: Caller = governed("inference:deployment.rollback", in_operation=True),
    ) -> Response:
        return _with_etag(
            await endpoints.roll_back(caller, endpoint, reason=body.reason or "by hand", revision=revision_of(if_match))
        )

    _add_rollout_routes(router, operations)
    _add_state_routes(router, operations)
    return router


def _with_etag(endpoint: contract.Endpoint) -> Response:
    response = answer(endpoint)
    response.headers["ETag"] = endpoint.etag
    return response


def _add_rollout_routes(router: APIRouter, operations: Operations) -> None:
    rollouts = operations.rollouts

    @router.post(
        f"{_ENDPOINT}/rollouts",
        status_code=201,
        response_model=contract.Rollout,
        tags=["rollouts"],
        summary="Start moving a version towards live traffic",
    )
    async def create_rollout(
        endpoint: str,
        body: contract.RolloutCreate,
        request: Request,
        caller: Caller = governed("inference:deployment.update", in_operation=True),
    ) -> Response:
        async def create() -> Response:
            return answer(await rollouts.create(caller, endpoint, body), status=201)

        return await answer_once(
            operations.database,
            request,
            principal=caller.subject_id,
            answer=create,
            repeat=lambda: operations.endpoints.require_read(caller, endpoint),
        )

    @router.get(f"{_ENDPOINT}/rollouts", tags=["rollouts"], summary="List rollouts, newest first")
    async def list_rollouts(
        endpoint: str,
        page_size: PageSize = 50,
        page_token: PageToken = None,
        caller: Caller = governed("inference:deployment.read", resource_id=_ID),
    ) -> Response:
        shown, following = await rollouts.list_page(
            caller, endpoint, size=bounded_page_size(page_size), token=page_token
        )
        return answer({"rollouts": [r.model_dump(mode="json") for r in shown], "next_page_token": following})

    @router.get(_ROLLOUT, response_model=contract.Rollout, tags=["rollouts"], summary="Describe a rollout")
    async def get_rollout(
        rollout_id: str,
        caller: Caller = governed("inference:deployment.read", resource_id="rollouts/{rollout_id}"),
    ) -> Response:
        return answer(await rollouts.get(caller, rollout_id))

    @router.post(f"{_ROLLOUT}/pause", response_model=contract.Rollout, tags=["rollouts"], summary="Hold it")
    async def pause_rollout(
        rollout_id: str,
        body: Reason,
        caller: Caller = governed("inference:rollout.pause", in_operation=True),
    ) -> Response:
        return answer(await rollouts.pause(caller, rollout_id, reason=body.reason or "paused by hand"))

    @router.post(f"{_ROLLOUT}/resume", response_model=contract.Rollout, tags=["rollouts"], summary="Go on")
    async def resume_rollout(
        rollout_id: str,
        body: Reason,
        caller: Caller = governed("inference:rollout.resume", in_operation=True),
    ) -> Response:
        return answer(await rollouts.resume(caller, rollout_id, reason=body.reason or "resumed by hand"))

    @router.post(f"{_ROLLOUT}/abort", response_model=contract.Rollout, tags=["rollouts"], summary="End it")
    async def abort_rollout(
        rollout_id: str,
        body: Reason,
        caller: Caller = governed("inference:rollout.abort", in_operation=True),
    ) -> Response:
        return answer(await rollouts.abort(caller, rollout_id, reason=body.reason or "aborted by hand"))


def _add_state_routes(router: APIRouter, operations: Operations) -> None:
    @router.get(
        f"{contract.API}/desired",
        response_model=contract.DesiredState,
        tags=["desired state"],
        summary="What inference is to load and route",
    )
    async def desired(
        request: Request,
        caller: Caller = governed("inference:desired.read"),  # noqa: ARG001 - declares the action
    ) -> Response:
        state = await operations.desired.get()
        tag = f'"{state.revision}"'
        if request.headers.get("if-none-match") in {tag, state.revision}:
            return Response(status_code=304, headers={"ETag": tag})
        response = answer(state)
        response.headers["ETag"] = tag
        return response

    @router.put(
        f"{contract.API}/observed/{{instance}}",
        status_code=204,
        tags=["desired state"],
        summary="What an inference process has loaded",
    )
    async def observed(
        instance: str,
        body: contract.ObservedState,
        caller: Caller = governed(  # noqa: ARG001 - declares the action
            "inference:observed.write", resource_id="observed/{instance}"
        ),
    ) -> Response:
        await operations.endpoints.report(instance, body)
        return Response(status_code=204)
