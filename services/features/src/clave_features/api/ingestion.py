"""Routes of ingestion: tables in, quarantine out, online values rebuilt."""

from pathlib import Path
from typing import Annotated, Any, Literal

from clave_common.access import Caller, governed
from clave_common.database import Database
from clave_common.pages import PageSize, PageToken, decode_token, encode_token, page_size
from clave_contracts import features as wire
from clave_contracts.schema import Request as Body
from fastapi import APIRouter, Query, Request

from clave_features.api.purposes import require_features
from clave_features.api.uploads import received_table
from clave_features.domain.definitions import FeatureRef
from clave_features.metrics import count_ingest
from clave_features.services.catalogue import Catalogues
from clave_features.services.ingestion import Ingestion, report
from clave_features.storage import batches


class MaterializeRequest(Body):
    """Which views to rebuild online; all of them when absent."""

    views: list[str] | None = None


def ingestion_router(
    ingestion: Ingestion, catalogues: Catalogues, database: Database, *, scratch: Path, bytes_max: int
) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix=wire.API, tags=["ingestion"])

    @router.post("/views/{view}/ingest", summary="Ingest a table: Parquet, CSV, JSON rows or NDJSON")
    async def ingest(
        view: str,
        request: Request,
        unknown_columns: Literal["reject", "ignore"] = "reject",
        caller: Caller = governed("features:data.write", resource_id="views/{view}"),
    ) -> wire.IngestReport:
        catalogues.current.repository.view(view)
        ignore = unknown_columns == "ignore"
        async with received_table(request, scratch=scratch, bytes_max=bytes_max, ignore_unknown=ignore) as table:
            settled = await ingestion.ingest(view, table, caller)
        count_ingest(settled)
        return settled

    @router.get("/views/{view}/batches", summary="List a view's ingested batches, the newest first")
    async def batch_list(
        view: str,
        size: Annotated[PageSize | None, Query(alias="page_size")] = None,
        page_token: PageToken = None,
        _caller: Caller = governed("features:view.read", resource_id="views/{view}"),
    ) -> dict[str, Any]:
        catalogues.current.repository.view(view)
        query, limit = f"batches:{view}", page_size(size)
        after = int(decode_token(page_token, query=query, kinds=(int,))[0]) if page_token else None
        async with database.transaction() as tx:
            rows = await batches.recent(tx, view, after=after, limit=limit)
        token = encode_token([rows[-1].batch_no], query=query) if len(rows) == limit else None
        items = [{**report(row).model_dump(mode="json"), "received_at": row.received_at} for row in rows]
        return {"items": items, "next_page_token": token}

    @router.get("/views/{view}/quarantine", summary="List rows that were not accepted, with reasons")
    async def quarantine(
        view: str,
        size: Annotated[PageSize | None, Query(alias="page_size")] = None,
        page_token: PageToken = None,
        *,
        request: Request,
        caller: Caller = governed("features:offline.read", in_operation=True),
    ) -> dict[str, Any]:
        repository = catalogues.current.repository
        refs = [FeatureRef(view, one.name) for one in repository.view(view).features]
        path = f"views/{view}"
        await require_features(request, caller, "features:offline.read", path, repository, refs, service=None)
        query, limit = f"quarantine:{view}", page_size(size)
        position = decode_token(page_token, query=query, kinds=(int, int)) if page_token else None
        after = (int(position[0]), int(position[1])) if position else None
        async with database.transaction() as tx:
            rows = await batches.quarantined(tx, view, after=after, limit=limit)
        token = encode_token([rows[-1].batch_no, rows[-1].row_number], query=query) if len(rows) == limit else None
        items = [
            {"batch_no": row.batch_no, "row": row.row_number, "reasons": row.reasons, "content": row.content}
            for row in rows
        ]
        return {"items": items, "next_page_token": token}

    @router.post("/materialize", summary="Rebuild online values from the history")
    async def materialize(
        body: MaterializeRequest, caller: Caller = governed("features:materialize", resource_id="views")
    ) -> dict[str, Any]:
        return {"written": await ingestion.materialize(body.views, caller)}

    return router
