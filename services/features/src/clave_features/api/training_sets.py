"""Routes that make and find training sets."""

from datetime import datetime
from typing import Annotated, Any

from clave_common.access import Caller, governed
from clave_common.database import Database
from clave_common.idempotency import answer_once
from clave_common.pages import PageSize, PageToken, decode_token, encode_token, page_size
from clave_contracts import features as wire
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from clave_features.api.purposes import require_features
from clave_features.domain.definitions import FeatureRef
from clave_features.services.catalogue import Catalogues
from clave_features.services.training_sets import TrainingSets, describe

_NOTHING_READ: dict[str, Any] = {"features": []}


def training_sets_router(training_sets: TrainingSets, catalogues: Catalogues, database: Database) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix=f"{wire.API}/training-sets", tags=["training sets"])

    @router.post(
        "",
        status_code=201,
        response_model=wire.TrainingSet,
        summary="Make a training set, or find the one of the same inputs",
    )
    async def create(
        body: wire.TrainingSetRequest,
        request: Request,
        caller: Caller = governed("features:offline.read", in_operation=True),
    ) -> Response:
        repository = catalogues.current.repository
        extra = [FeatureRef.parse(text) for text in body.extra]
        refs = [*repository.service(body.feature_service).features, *extra, FeatureRef(body.label_view, body.label)]
        await require_features(
            request, caller, "features:offline.read", "training-sets", repository, refs, service=body.feature_service
        )

        async def answer() -> Response:
            made = await training_sets.create(body, caller)
            return Response(made.model_dump_json(), status_code=201, media_type="application/json")

        return await answer_once(database, request, principal=caller.acting_for, answer=answer)

    @router.get("", summary="List training sets, the newest first")
    async def page(
        name: str | None = None,
        size: Annotated[PageSize | None, Query(alias="page_size")] = None,
        page_token: PageToken = None,
        _caller: Caller = governed("features:offline.read", resource_id="training-sets", properties=_NOTHING_READ),
    ) -> dict[str, Any]:
        query, limit = f"training-sets:{name}", page_size(size)
        position = decode_token(page_token, query=query, kinds=(datetime, str)) if page_token else None
        after = (datetime.fromisoformat(position[0]), str(position[1])) if position else None
        rows = await training_sets.page(name=name, after=after, limit=limit)
        last = [rows[-1].created_at.isoformat(), rows[-1].id] if len(rows) == limit else None
        token = encode_token(last, query=query) if last else None
        return {"items": [describe(row).model_dump(mode="json") for row in rows], "next_page_token": token}

    @router.post(
        "/search-by-entity",
        response_model=wire.MembershipPage,
        summary="Which training sets hold this entity? A POST, so that keys of people stay out of addresses and logs",
    )
    async def search_by_entity(
        body: wire.MembershipRequest,
        size: Annotated[PageSize | None, Query(alias="page_size")] = None,
        page_token: PageToken = None,
        _caller: Caller = governed("features:offline.read", resource_id="training-sets", properties=_NOTHING_READ),
    ) -> wire.MembershipPage:
        query, limit = "training-sets-of-entity", page_size(size)
        position = decode_token(page_token, query=query, kinds=(datetime, str)) if page_token else None
        after = (datetime.fromisoformat(position[0]), str(position[1])) if position else None
        found, searched = await training_sets.holding(body.keys, after=after, limit=limit)
        last = searched[-1] if len(searched) == limit else None
        token = encode_token([last.created_at.isoformat(), last.id], query=query) if last else None
        items = [wire.Membership(training_set=describe(row), matching_rows=count) for row, count in found]
        return wire.MembershipPage(items=items, searched=len(searched), next_page_token=token)

    return router
