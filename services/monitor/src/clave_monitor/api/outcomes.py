"""Routes of outcomes: what really happened after predictions."""

from datetime import datetime
from typing import Annotated

from clave_common.access import Caller, governed
from clave_common.errors import InvalidArgument
from clave_common.pages import PageSize, PageToken
from clave_common.pages import page_size as bounded
from clave_contracts import monitor as contract
from fastapi import APIRouter, Query

from clave_monitor.api.operations import Operations

_ID = "endpoints/{endpoint}"


def aware(at: datetime | None, field: str) -> datetime | None:
    """Refuse a time without a zone."""
    if at is not None and at.tzinfo is None:
        raise InvalidArgument(f"'{field}' needs a time zone, for example 2026-01-31T12:00:00Z.", field=field)
    return at


def outcome_routes(operations: Operations) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["monitor"])

    @router.post(
        f"{contract.API}/feedback",
        response_model=contract.FeedbackResult,
        summary="Tell what really happened after predictions",
    )
    async def feedback(
        body: contract.FeedbackRequest, caller: Caller = governed("drift:feedback.write")
    ) -> contract.FeedbackResult:
        for item in body.items:
            aware(item.occurred_at, "items.occurred_at")
        result = await operations.ingestion.take_feedback(body.items, principal=caller.subject_id)
        if result.joined:
            operations.wake_up.ring()
        return result

    @router.get(
        f"{contract.API}/endpoints/{{endpoint}}/labelled",
        response_model=contract.LabelledPage,
        summary="List predictions with outcomes",
        dependencies=[governed("drift:labelled.read", resource_id=_ID)],
    )
    async def labelled(
        endpoint: str,
        after: Annotated[datetime | None, Query(description="Only labels that came later.")] = None,
        page_size: PageSize = 1000,
        page_token: PageToken = None,
    ) -> contract.LabelledPage:
        return await operations.reporting.labelled(
            endpoint, after=aware(after, "after"), page_token=page_token, limit=bounded(page_size)
        )

    return router
