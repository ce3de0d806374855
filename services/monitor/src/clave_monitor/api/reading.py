"""Routes that answer questions about endpoints."""

from typing import Annotated, Literal

import orjson
from clave_common.access import Caller, governed
from clave_common.pages import PageSize, PageToken
from clave_common.pages import page_size as bounded
from clave_contracts import monitor as contract
from clave_contracts.schema import Number
from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import Response

from clave_monitor.api.operations import Operations
from clave_monitor.domain.canary import CanaryPolicy

_ENDPOINT = f"{contract.API}/endpoints/{{endpoint}}"
_ID = "endpoints/{endpoint}"


class AnalysisQuery(BaseModel):
    """What is to be compared, and how surely.

    Attributes:
        champion: Version to compare with; the live one when absent.
        since: Only predictions made at or after this time.
        rows_min: Requests each arm must have answered before a pass.
        labels_min: Labels each arm must have before a pass.
        alpha: False-rollback rate over the whole rollout.
    """

    endpoint: str
    challenger: Number
    champion: Number | None = None
    since: AwareDatetime
    rows_min: int = Field(default=20, ge=1, le=1_000_000)
    labels_min: int = Field(default=0, ge=0, le=1_000_000)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)


def reading_routes(operations: Operations) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["monitor"])
    reporting = operations.reporting

    @router.get(
        f"{_ENDPOINT}/report",
        response_model=contract.Report,
        summary="How is the endpoint's version?",
        dependencies=[governed("drift:report.read", resource_id=_ID)],
    )
    async def report(
        endpoint: str,
        version: Annotated[Number | None, Query(description="Another version than the live one.")] = None,
    ) -> contract.Report:
        return await reporting.report(endpoint, version=version)

    @router.get(
        f"{_ENDPOINT}/windows",
        summary="List closed windows, newest first",
        dependencies=[governed("drift:report.read", resource_id=_ID)],
    )
    async def windows(endpoint: str, page_size: PageSize = 50, page_token: PageToken = None) -> Response:
        rows, token = await reporting.windows(endpoint, page_token=page_token, limit=bounded(page_size))
        body = orjson.dumps({"windows": rows, "next_page_token": token})
        return Response(body, media_type="application/json")

    @router.get(
        f"{contract.API}/analysis",
        response_model=contract.Analysis,
        summary="Does the challenger harm, compared with the champion?",
        dependencies=[governed("drift:analysis.read")],
    )
    async def analysis(asked: Annotated[AnalysisQuery, Query()]) -> contract.Analysis:
        return await operations.comparison.analyse(
            endpoint=asked.endpoint,
            challenger=asked.challenger,
            champion=asked.champion,
            since=asked.since,
            policy=CanaryPolicy(rows_min=asked.rows_min, labels_min=asked.labels_min, alpha=asked.alpha),
        )

    @router.get(
        f"{contract.API}/alerts",
        response_model=contract.AlertPage,
        summary="List alerts of the endpoints whose reports the caller may read, latest first",
    )
    async def alerts(
        caller: Caller = governed("drift:report.read", resource_id="alerts", listing=True),
        endpoint: str | None = None,
        state: Literal["open", "acknowledged", "snoozed", "resolved"] | None = None,
        page_size: PageSize = 50,
        page_token: PageToken = None,
    ) -> contract.AlertPage:
        return await reporting.alerts(
            caller, endpoint=endpoint, state=state, page_token=page_token, limit=bounded(page_size)
        )

    @router.get(
        f"{_ENDPOINT}/decisions",
        response_model=contract.DecisionPage,
        summary="List decisions, newest first",
        dependencies=[governed("drift:report.read", resource_id=_ID)],
    )
    async def decisions(endpoint: str, page_size: PageSize = 50, page_token: PageToken = None) -> contract.DecisionPage:
        return await reporting.decisions(endpoint, page_token=page_token, limit=bounded(page_size))

    return router
