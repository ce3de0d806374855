"""The routes of the MLflow-compatible surface: a table of method, path, action and operation.

Every answer of these routes is 200 with a JSON object, because MLflow's clients take nothing else for success; errors
are translated by `errors`. Only the artifact routes carry bytes.
"""

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote

import orjson
from clave_common.access import Caller, governed, open_route
from clave_common.answer_headers import HOLDS_A_SECRET
from clave_contracts.schema import Number
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from clave_registry.mlflow.artifacts import Artifacts
from clave_registry.mlflow.context import Context
from clave_registry.mlflow.experiments import Experiments
from clave_registry.mlflow.logged_models import LoggedModels
from clave_registry.mlflow.messages import Message
from clave_registry.mlflow.metrics import Metrics
from clave_registry.mlflow.model_versions import ModelVersions
from clave_registry.mlflow.registered_models import RegisteredModels
from clave_registry.mlflow.registration import Registration
from clave_registry.mlflow.runs import Runs
from clave_registry.mlflow.transfers import PART, TRANSFERS, Door, Transfers
from clave_registry.mlflow.values import Fields, fields_of
from clave_registry.services.uploads import Uploads

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
SERVER_INFO = "/api/3.0/mlflow/server-info"
Operation = Callable[[Caller, Fields], Awaitable[Message]]
Route = tuple[str, str, str, Operation]

_RUN_READ, _RUN_WRITE = "registry:run.read", "registry:run.write"
_EXPERIMENT_WRITE = "registry:experiment.write"
_LISTINGS = ("/registered-models/search", "/model-versions/search")
_MODEL_READ, _MODEL_UPDATE = "registry:model.read", "registry:model.update"
_VERSION_READ, _VERSION_TAG = "registry:version.read", "registry:version.tag"


def mlflow_routes(context: Context, uploads: Uploads) -> APIRouter:
    """Build every route that an MLflow client calls."""
    router = APIRouter(tags=["mlflow"])
    for method, path, action, operation in (*_tracking_table(context), *_registry_table(context)):
        _add(router, method, f"{API}/{path}", action, operation)
    artifacts = Artifacts(context)
    _add_artifact_routes(router, artifacts)
    _add_transfer_routes(router, Transfers(context, artifacts, uploads), uploads, public_url=context.public_url)

    @router.get(SERVER_INFO, include_in_schema=False)
    @open_route
    async def server_info() -> Response:
        info = {
            "store_type": "SqlStore",
            "workspaces_enabled": False,
            "trace_archival_enabled": False,
            "multipart_uploads_enabled": True,
            "multipart_downloads_enabled": context.direct_transfer_s > 0,
            "presigned_upload_run_id_supported": False,
            "presigned_upload_model_id_supported": False,
            "features_enabled": {"gateway": False},
        }
        return _json(info)

    return router


def _tracking_table(context: Context) -> list[Route]:
    experiments, runs, metrics = Experiments(context), Runs(context), Metrics(context)
    logged = LoggedModels(context)
    return [
        ("POST", "experiments/create", _EXPERIMENT_WRITE, experiments.create),
        ("GET", "experiments/get", _RUN_READ, experiments.get),
        ("GET", "experiments/get-by-name", _RUN_READ, experiments.get_by_name),
        ("POST", "experiments/search", _RUN_READ, experiments.search),
        ("GET", "experiments/search", _RUN_READ, experiments.search),
        ("POST", "experiments/update", _EXPERIMENT_WRITE, experiments.update),
        ("POST", "experiments/delete", _EXPERIMENT_WRITE, experiments.delete),
        ("POST", "experiments/restore", _EXPERIMENT_WRITE, experiments.restore),
        ("POST", "experiments/set-experiment-tag", _EXPERIMENT_WRITE, experiments.set_tag),
        ("POST", "experiments/delete-experiment-tag", _EXPERIMENT_WRITE, experiments.delete_tag),
        ("POST", "runs/create", _RUN_WRITE, runs.create),
        ("GET", "runs/get", _RUN_READ, runs.get),
        ("POST", "runs/update", _RUN_WRITE, runs.update),
        ("POST", "runs/search", _RUN_READ, runs.search),
        ("POST", "runs/delete", _RUN_WRITE, runs.delete),
        ("POST", "runs/restore", _RUN_WRITE, runs.restore),
        ("POST", "runs/set-tag", _RUN_WRITE, runs.set_tag),
        ("POST", "runs/delete-tag", _RUN_WRITE, runs.delete_tag),
        ("POST", "runs/log-inputs", _RUN_WRITE, runs.log_inputs),
        ("POST", "runs/outputs", _RUN_WRITE, runs.outputs),
        ("POST", "runs/log-metric", _RUN_WRITE, metrics.log_metric),
        ("POST", "runs/log-parameter", _RUN_WRITE, metrics.log_parameter),
        ("POST", "runs/log-batch", _RUN_WRITE, metrics.log_batch),
        ("GET", "metrics/get-history", _RUN_READ, metrics.history),
        ("POST", "logged-models", _RUN_WRITE, logged.create),
        ("POST", "logged-models/search", _RUN_READ, logged.search),
        ("GET", "logged-models/{model_id}", _RUN_READ, logged.get),
        ("PATCH", "logged-models/{model_id}", _RUN_WRITE, logged.finalize),
        ("DELETE", "logged-models/{model_id}", _RUN_WRITE, logged.delete),
        ("PATCH", "logged-models/{model_id}/tags", _RUN_WRITE, logged.set_tags),
        ("DELETE", "logged-models/{model_id}/tags/{tag_key:path}", _RUN_WRITE, logged.delete_tag),
        ("POST", "logged-models/{model_id}/params", _RUN_WRITE, logged.log_params),
    ]


def _registry_table(context: Context) -> list[Route]:
    models, versions = RegisteredModels(context), ModelVersions(context)
    registration = Registration(context)
    return [
        ("POST", "registered-models/create", "registry:model.create", models.create),
        ("GET", "registered-models/get", _MODEL_READ, models.get),
        ("PATCH", "registered-models/update", _MODEL_UPDATE, models.update),
        ("POST", "registered-models/rename", _MODEL_UPDATE, models.rename),
        ("DELETE", "registered-models/delete", "registry:model.delete", models.delete),
        ("GET", "registered-models/search", "registry:model.list", models.search),
        ("POST", "registered-models/set-tag", _MODEL_UPDATE, models.set_tag),
        ("DELETE", "registered-models/delete-tag", _MODEL_UPDATE, models.delete_tag),
        ("POST", "registered-models/get-latest-versions", _VERSION_READ, models.latest_versions),
        ("GET", "registered-models/get-latest-versions", _VERSION_READ, models.latest_versions),
        ("GET", "registered-models/alias", _VERSION_READ, models.get_alias),
        ("POST", "registered-models/alias", _VERSION_TAG, models.set_alias),
        ("DELETE", "registered-models/alias", _VERSION_TAG, models.delete_alias),
        ("POST", "model-versions/create", "registry:version.create", registration.create),
        ("GET", "model-versions/get", _VERSION_READ, versions.get),
        ("PATCH", "model-versions/update", _VERSION_TAG, versions.update),
        ("DELETE", "model-versions/delete", _VERSION_TAG, versions.delete),
        ("GET", "model-versions/search", _VERSION_READ, versions.search),
        ("GET", "model-versions/get-download-uri", _VERSION_READ, versions.download_uri),
        ("POST", "model-versions/transition-stage", _VERSION_TAG, versions.transition_stage),
        ("POST", "model-versions/set-tag", _VERSION_TAG, versions.set_tag),
        ("DELETE", "model-versions/delete-tag", _VERSION_TAG, versions.delete_tag),
    ]


def _add(router: APIRouter, method: str, path: str, action: str, operation: Operation) -> None:
    listing = path.endswith(_LISTINGS)

    async def endpoint(request: Request, caller: Caller = governed(action, listing=listing)) -> Response:
        return _json(await operation(caller, await fields_of(request)))

    name = path.removeprefix(API).strip("/").replace("/", "_").replace("-", "_")
    router.add_api_route(path, endpoint, methods=[method], name=f"mlflow_{name}", summary=operation.__doc__)


def _add_artifact_routes(router: APIRouter, artifacts: Artifacts) -> None:
    @router.get(ARTIFACTS, summary="List what lies directly in a folder")
    async def list_artifacts(
        path: str = "", caller: Caller = governed("registry:blob.read", resource_id="artifacts")
    ) -> Response:
        return _json(await artifacts.list_folder(caller, path))

    @router.get(f"{ARTIFACTS}/{{path:path}}", summary="Download a file, or a range of it")
    async def get_artifact(
        path: str, request: Request, caller: Caller = governed("registry:blob.read", resource_id="artifacts")
    ) -> Response:
        found = await artifacts.get(caller, path, asked_range=request.headers.get("range"))
        part = found.part
        headers = {
            "ETag": f'"{found.digest}"',
            "Accept-Ranges": "bytes",
            "Content-Length": str(part.end - part.start),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(found.name, safe='')}",
        }
        if not part.whole:
            headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{part.size}"
        status = 200 if part.whole else 206
        return StreamingResponse(found.chunks, status_code=status, media_type=found.media_type, headers=headers)

    @router.put(f"{ARTIFACTS}/{{path:path}}", summary="Upload a file")
    async def put_artifact(
        path: str, request: Request, caller: Caller = governed("registry:blob.write", resource_id="artifacts")
    ) -> Response:
        await artifacts.put(caller, path, request.stream())
        return _json({})

    @router.delete(f"{ARTIFACTS}/{{path:path}}", summary="Forget a file, or a folder with everything in it")
    async def delete_artifact(
        path: str, caller: Caller = governed("registry:blob.write", resource_id="artifacts")
    ) -> Response:
        await artifacts.delete(caller, path)
        return _json({})


def _add_transfer_routes(router: APIRouter, transfers: Transfers, uploads: Uploads, *, public_url: str | None) -> None:
    write, read = "registry:blob.write", "registry:blob.read"

    @router.post(f"{TRANSFERS}/mpu/create/{{folder:path}}", summary="Begin an upload in parts")
    async def create(
        folder: str, request: Request, caller: Caller = governed(write, resource_id="artifacts")
    ) -> Response:
        door = Door(public_url or _base_url(request), request.headers.get("authorization", ""))
        message = await transfers.create(caller, folder, await fields_of(request), door)
        return _json(message, headers=HOLDS_A_SECRET)

    @router.put(f"{PART}/{{upload}}/{{number}}", summary="Send a part")
    async def put_part(
        upload: str, number: Number, request: Request, caller: Caller = governed(write, resource_id="artifacts")
    ) -> Response:
        size = await uploads.put_part(caller, upload, number, request.stream())
        return _json({}, headers={"ETag": f'"{number}-{size}"'})

    @router.post(f"{TRANSFERS}/mpu/complete/{{folder:path}}", summary="Put the parts of an upload together")
    async def complete(
        folder: str, request: Request, caller: Caller = governed(write, resource_id="artifacts")
    ) -> Response:
        return _json(await transfers.complete(caller, folder, await fields_of(request)))

    @router.post(f"{TRANSFERS}/mpu/abort/{{folder:path}}", summary="Forget an upload and its parts")
    async def abort(
        folder: str, request: Request, caller: Caller = governed(write, resource_id="artifacts")
    ) -> Response:
        return _json(await transfers.abort(caller, folder, await fields_of(request)))

    @router.get(f"{TRANSFERS}/presigned/{{path:path}}", summary="Where a file can be read straight from the store")
    async def presigned(path: str, caller: Caller = governed(read, resource_id="artifacts")) -> Response:
        return _json(await transfers.presigned(caller, path))


def _base_url(request: Request) -> str:
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme)
    return f"{scheme if scheme in {'http', 'https'} else 'http'}://{request.headers.get('host', '127.0.0.1')}"


def _json(message: Message, *, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(message), media_type="application/json", headers=headers)
