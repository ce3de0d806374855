"""Feast's feature-server shape: its remote online store client and its curl examples work unmodified.

Differences from Feast 0.67, on purpose: results come in the order of the request, statuses are true (NULL_VALUE,
NOT_FOUND, OUTSIDE_MAX_AGE), a client's fault is a 4xx (its client retries every 5xx), and a push always reaches the
history, too. Bodies are read whatever their content type says.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import orjson
from clave_common.access import Caller, governed
from clave_common.errors import InvalidArgument
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from clave_features.api.purposes import MASKED_HEADER, require_features
from clave_features.api.uploads import written_table
from clave_features.domain.definitions import FeatureRef, Repository, View
from clave_features.domain.dtypes import Value
from clave_features.domain.errors import TableMalformed
from clave_features.domain.point_in_time import Status
from clave_features.domain.times import from_us
from clave_features.metrics import count_ingest
from clave_features.services.catalogue import Catalogues
from clave_features.services.ingestion import Ingestion
from clave_features.services.online import OnlineReads, RawColumn

_EPOCH: Final = "1970-01-01T00:00:00Z"
_FEAST_TIME: Final = "event_timestamp"
_FEAST_CREATED: Final = "created"
M = TypeVar("M", bound=BaseModel)
Frame = Annotated[dict[str, list[Any]], Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class OnlineFeaturesRequest(_Body):
    """Body of /get-online-features."""

    features: list[str] | None = None
    feature_service: str | None = None
    entities: dict[str, list[Any]]
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False


class PushRequest(_Body):
    """Body of /push; a push source is a view of that name."""

    push_source_name: str
    df: Frame


class WriteRequest(_Body):
    """Body of /write-to-online-store."""

    feature_view_name: str
    df: Frame


class FeastMaterializeRequest(_Body):
    """Body of /materialize and /materialize-incremental; the times are of no use to a guarded rebuild."""

    feature_views: list[str] | None = None


async def _parsed(request: Request, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidArgument(f"{place}: {first['msg']}.", field=place) from error


def feast_router(reads: OnlineReads, ingestion: Ingestion, catalogues: Catalogues, *, scratch: Path) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["feast"])

    @router.post("/get-online-features", summary="Read latest values in Feast's shape")
    async def get_online_features(
        request: Request, caller: Caller = governed("features:online.read", in_operation=True)
    ) -> Response:
        body = await _parsed(request, OnlineFeaturesRequest)
        repository = catalogues.current.repository
        refs = _refs(body, repository)
        masked = await require_features(
            request,
            caller,
            "features:online.read",
            "get-online-features",
            repository,
            refs,
            service=body.feature_service,
        )
        columns = await reads.read_raw(refs, body.entities)
        shown = [_withheld(column) if column.ref.column in masked else column for column in columns]
        headers = {MASKED_HEADER: ",".join(masked)} if masked else None
        content = orjson.dumps(_answer(body, shown, catalogues))
        return Response(content, media_type="application/json", headers=headers)

    async def write(view: View, frame: Frame, caller: Caller) -> None:
        async with written_table(scratch, _rows(frame, view), ignore_unknown=True) as table:
            count_ingest(await ingestion.ingest(view.name, table, caller))

    @router.post("/push", summary="Ingest a push source's rows")
    async def push(request: Request, caller: Caller = governed("features:data.write", resource_id="push")) -> Response:
        body = await _parsed(request, PushRequest)
        await write(catalogues.current.repository.view(body.push_source_name), body.df, caller)
        return Response(status_code=200)

    @router.post("/write-to-online-store", summary="Ingest rows of a feature view")
    async def write_to_online_store(
        request: Request, caller: Caller = governed("features:data.write", resource_id="write-to-online-store")
    ) -> Response:
        body = await _parsed(request, WriteRequest)
        await write(catalogues.current.repository.view(body.feature_view_name), body.df, caller)
        return Response(b"null", media_type="application/json")

    @router.post("/materialize", summary="Rebuild online values")
    @router.post("/materialize-incremental", summary="Rebuild online values")
    async def materialize(
        request: Request, caller: Caller = governed("features:materialize", resource_id="views")
    ) -> Response:
        body = await _parsed(request, FeastMaterializeRequest)
        await ingestion.materialize(body.feature_views, caller)
        return Response(b"null", media_type="application/json")

    return router


def _refs(body: OnlineFeaturesRequest, repository: Repository) -> list[FeatureRef]:
    if body.feature_service is not None:
        return list(repository.service(body.feature_service).features)
    if not body.features:
        raise InvalidArgument("Name 'features' as view:feature, or a 'feature_service'.", field="features")
    return [FeatureRef.parse(text) for text in body.features]


def _withheld(column: RawColumn) -> RawColumn:
    """Empty a column, in Feast's words for a value that is not there."""
    absent = Status.NOT_FOUND
    return replace(column, values=[None] * len(column.values), statuses=[absent] * len(column.statuses))


def _answer(body: OnlineFeaturesRequest, columns: Sequence[RawColumn], catalogues: Catalogues) -> dict[str, Any]:
    names = list(body.entities)
    results: list[dict[str, Any]] = [
        {"values": values, "statuses": ["PRESENT"] * len(values), "event_timestamps": [_EPOCH] * len(values)}
        for values in body.entities.values()
    ]
    for column in columns:
        names.append(column.ref.column if body.full_feature_names else column.ref.feature)
        results.append(
            {
                "values": [_json_value(value) for value in column.values],
                "statuses": [str(status) for status in column.statuses],
                "event_timestamps": [_time(at) for at in column.event_times_us],
            }
        )
    metadata: dict[str, Any] = {"feature_names": names}
    if body.include_feature_view_version_metadata:
        views = dict.fromkeys(column.ref.view for column in columns)
        current = catalogues.current
        metadata["feature_view_metadata"] = [{"name": name, "version": current.version(name)} for name in views]
    return {"results": results, "metadata": metadata}


def _json_value(value: Value) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _time(microseconds: int | None) -> str:
    if microseconds is None:
        return _EPOCH
    at = from_us(microseconds)
    plain = at.strftime("%Y-%m-%dT%H:%M:%S")
    if not at.microsecond:
        return plain + "Z"
    if at.microsecond % 1_000 == 0:
        return f"{plain}.{at.microsecond // 1_000:03d}Z"
    return f"{plain}.{at.microsecond:06d}Z"


def _rows(frame: Frame, view: View) -> list[dict[str, Any]]:
    lengths = {len(values) for values in frame.values()}
    if len(lengths) != 1:
        raise TableMalformed(f"The columns of 'df' have different lengths: {sorted(lengths)}.", form="json")
    names = {_FEAST_TIME: view.timestamp_column} if view.timestamp_column not in frame else {}
    if view.created_column is not None and view.created_column not in frame:
        names[_FEAST_CREATED] = view.created_column
    columns = {names.get(name, name): values for name, values in frame.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
