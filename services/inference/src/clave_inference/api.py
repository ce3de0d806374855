"""The Open Inference Protocol over REST, except infer, which `hot_route` and `lane` serve."""

from typing import Any

import orjson
from clave_common.access import Caller, governed
from fastapi import APIRouter, Request, Response

from clave_inference import __version__
from clave_inference.domain.errors import ModelNotReady
from clave_inference.hot_route import credential_from
from clave_inference.services.admissions import PREDICT
from clave_inference.services.describe import EXTENSIONS, SERVER_NAME, Describe, ManagedByRegistry
from clave_inference.services.explain import Explanations

_READ = "inference:deployment.read"


def protocol_routes(describe: Describe, explanations: Explanations) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["open inference protocol"])
    _server_routes(router, describe)
    _model_routes(router, describe)
    _explain_routes(router, explanations)
    return router


def _server_routes(router: APIRouter, describe: Describe) -> None:
    @router.get("/v2", summary="Server metadata")
    async def server(_caller: Caller = governed(_READ, resource_id="endpoints")) -> dict[str, Any]:
        return {"name": SERVER_NAME, "version": __version__, "extensions": EXTENSIONS}

    @router.get("/v2/models", summary="Names of the endpoints")
    async def models(caller: Caller = governed(_READ, resource_id="endpoints")) -> dict[str, list[str]]:
        return {"models": describe.seen_by(caller).names()}

    @router.get("/v2/models/stats", summary="Statistics of every model")
    async def all_statistics(caller: Caller = governed(_READ, resource_id="endpoints")) -> dict[str, Any]:
        return {"model_stats": describe.seen_by(caller).statistics()}

    @router.post("/v2/repository/index", summary="What is loaded, loading or refused")
    async def index(caller: Caller = governed(_READ, resource_id="endpoints")) -> Response:
        return Response(orjson.dumps(describe.seen_by(caller).index()), media_type="application/json")

    @router.post("/v2/repository/models/{model}/load", summary="Refused: the registry decides")
    @router.post("/v2/repository/models/{model}/unload", summary="Refused: the registry decides")
    async def load(model: str, _caller: Caller = governed(_READ, resource_id="endpoints/{model}")) -> dict[str, Any]:
        raise ManagedByRegistry(model)


def _model_routes(router: APIRouter, describe: Describe) -> None:
    @router.get("/v2/models/{model}", summary="Model metadata")
    @router.get("/v2/models/{model}/versions/{version}", summary="Metadata of a version")
    async def metadata(
        model: str, version: str | None = None, caller: Caller = governed(_READ, resource_id="endpoints/{model}")
    ) -> dict[str, Any]:
        return describe.seen_by(caller).metadata(model, version)

    @router.get("/v2/models/{model}/ready", summary="Does the model answer?")
    @router.get("/v2/models/{model}/versions/{version}/ready", summary="Does the version answer?")
    async def ready(
        model: str, version: str | None = None, caller: Caller = governed(_READ, resource_id="endpoints/{model}")
    ) -> dict[str, Any]:
        if not describe.seen_by(caller).ready(model, version):
            raise ModelNotReady(model, "it is being loaded")
        return {"name": model, "ready": True}

    @router.get("/v2/models/{model}/config", summary="Model configuration (Triton)")
    @router.get("/v2/models/{model}/versions/{version}/config", summary="Configuration of a version (Triton)")
    async def config(
        model: str, version: str | None = None, caller: Caller = governed(_READ, resource_id="endpoints/{model}")
    ) -> dict[str, Any]:
        return describe.seen_by(caller).config(model, version)

    @router.get("/v2/models/{model}/stats", summary="Statistics of a model")
    @router.get("/v2/models/{model}/versions/{version}/stats", summary="Statistics of a version")
    async def statistics(
        model: str, version: str | None = None, caller: Caller = governed(_READ, resource_id="endpoints/{model}")
    ) -> dict[str, Any]:
        return {"model_stats": describe.seen_by(caller).statistics(model, version)}


def _explain_routes(router: APIRouter, explanations: Explanations) -> None:
    @router.post("/v2/models/{model}/explain", summary="How much each column added to each row's margin")
    @router.post("/v2/models/{model}/versions/{version}/explain", summary="The same of a version")
    async def explain(
        request: Request,
        model: str,
        version: str | None = None,
        _caller: Caller = governed(PREDICT, resource_id="endpoints/{model}", in_operation=True),
    ) -> Response:
        client = request.client
        credential = credential_from(dict(request.scope["headers"]), client.host if client else None)
        body = await request.body()
        return Response(await explanations.explain(model, version, credential, body), media_type="application/json")
