"""The compact online read: one row per entity, float32 as the model reads it."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import orjson
from clave_common.access import Caller, governed
from clave_contracts import features as wire
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import Response

from clave_features.api.purposes import MASKED_HEADER, require_features
from clave_features.domain.times import from_us
from clave_features.services.catalogue import Catalogues
from clave_features.services.online import Found, ModelRows, OnlineReads


def online_router(reads: OnlineReads, catalogues: Catalogues) -> APIRouter:
    """Build the route."""
    router = APIRouter(prefix=wire.API, tags=["online"])

    @router.post("/online/read", summary="Read latest values, row by row", response_model=wire.OnlineRows)
    async def read(
        body: wire.OnlineRead, request: Request, caller: Caller = governed("features:online.read", in_operation=True)
    ) -> Response:
        repository = catalogues.current.repository
        service = repository.service(body.feature_service)
        name = f"feature-services/{service.name}"
        masked = await require_features(
            request, caller, "features:online.read", name, repository, service.features, service=service.name
        )
        rows = await reads.read(body.feature_service, body.entities)
        if masked:
            rows = replace(rows, values=_without(rows.values, [ref.column in masked for ref in service.features]))
        headers = {MASKED_HEADER: ",".join(masked)} if masked else None
        return Response(render(rows), media_type="application/json", headers=headers)

    return router


def _without(values: NDArray[np.float32], masked: list[bool]) -> NDArray[np.float32]:
    """Empty the masked columns."""
    left = values.copy()
    left[:, masked] = np.nan
    return left


def render(rows: ModelRows) -> bytes:
    """Write the answer as JSON; float32 in its shortest form, missing as null."""
    answer: dict[str, Any] = {
        "columns": rows.columns,
        "views": [found.read.view.name for found in rows.found],
        "values": np.ascontiguousarray(rows.values),
        "statuses": list(zip(*(found.statuses for found in rows.found), strict=True)),
        "event_times": list(zip(*(_times(found) for found in rows.found), strict=True)),
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)


def _times(found: Found) -> list[datetime | None]:
    return [None if at is None else from_us(at) for at in found.event_times_us()]
