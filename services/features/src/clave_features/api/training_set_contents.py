"""Routes of one training set: what it is, what it was made of, its rows."""

from typing import Any

from clave_common.access import Caller, governed
from clave_common.blobstore import BlobStore
from clave_contracts import features as wire
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from clave_features.api.purposes import require_features
from clave_features.domain.definitions import FeatureRef
from clave_features.services.catalogue import Catalogues
from clave_features.services.training_sets import TrainingSets, describe

PARQUET = "application/vnd.apache.parquet"

_PATH = "training-sets/{training_set_id}"
_NOTHING_READ: dict[str, Any] = {"features": []}


def training_set_contents_router(training_sets: TrainingSets, catalogues: Catalogues, blobs: BlobStore) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix=f"{wire.API}/training-sets", tags=["training sets"])

    @router.get("/{training_set_id}", summary="Describe a training set")
    async def get(
        training_set_id: str,
        _caller: Caller = governed("features:offline.read", resource_id=_PATH, properties=_NOTHING_READ),
    ) -> wire.TrainingSet:
        return describe(await training_sets.get(training_set_id))

    @router.get("/{training_set_id}/manifest", summary="Read what a training set was made of")
    async def manifest(
        training_set_id: str,
        _caller: Caller = governed("features:offline.read", resource_id=_PATH, properties=_NOTHING_READ),
    ) -> dict[str, Any]:
        row = await training_sets.get(training_set_id)
        return {"id": row.id, "digest": row.digest, "manifest_digest": row.manifest_digest, "manifest": row.manifest}

    @router.get("/{training_set_id}/data", summary="Stream a training set's Parquet file")
    async def data(
        training_set_id: str,
        request: Request,
        caller: Caller = governed("features:offline.read", resource_id=_PATH, properties=_NOTHING_READ),
    ) -> StreamingResponse:
        row = await training_sets.get(training_set_id)
        repository = catalogues.current.repository
        refs = [FeatureRef(*column.split("__", 1)) for column in row.manifest["columns"]]
        service = next((one.name for one in repository.services if one.name == row.feature_service), None)
        path = _PATH.format(training_set_id=training_set_id)
        await require_features(request, caller, "features:offline.read", path, repository, refs, service=service)
        headers = {"etag": f'"{row.digest}"', "content-length": str(describe(row).bytes)}
        return StreamingResponse(blobs.read(row.digest), media_type=PARQUET, headers=headers)

    return router
