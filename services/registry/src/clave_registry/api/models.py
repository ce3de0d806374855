"""Routes of registered models and their aliases."""

from typing import Annotated

from clave_common.access import Caller, governed
from clave_common.idempotency import answer_once
from clave_common.pages import PageSize, PageToken
from clave_common.pages import page_size as bounded_page_size
from clave_contracts import registry as contract
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import (
    AliasPoint,
    IfMatch,
    ModelUpdate,
    answer,
    revision_of,
    tag_filter,
)

_MODELS = f"{contract.API}/models"
_MODEL = f"{_MODELS}/{{model}}"
_ALIAS = f"{_MODEL}/aliases/{{alias}}"
_ID = "models/{model}"


def model_routes(operations: Operations) -> APIRouter:
    """Build the routes of registered models."""
    router = APIRouter(tags=["models"])
    models = operations.models

    @router.post(_MODELS, status_code=201, response_model=contract.Model, summary="Create a registered model")
    async def create_model(
        body: contract.ModelCreate, request: Request, caller: Caller = governed("registry:model.create")
    ) -> Response:
        async def create() -> Response:
            return answer(await models.create(caller, body), status=201)

        return await answer_once(operations.database, request, principal=caller.subject_id, answer=create)

    @router.get(_MODELS, response_model=contract.ModelPage, summary="List registered models by name")
    async def list_models(
        page_size: PageSize = 50,
        page_token: PageToken = None,
        tag: Annotated[str | None, Query(description="Only models with this tag, `key=value`.")] = None,
        caller: Caller = governed("registry:model.list", listing=True),
    ) -> Response:
        size = bounded_page_size(page_size)
        return answer(await models.list_page(caller, size=size, token=page_token, tag=tag_filter(tag)))

    @router.get(_MODEL, response_model=contract.Model, summary="Describe a registered model")
    async def get_model(model: str, caller: Caller = governed("registry:model.read", resource_id=_ID)) -> Response:
        shown, revision = await models.get(caller, model)
        return answer(shown, revision=revision)

    @router.patch(_MODEL, response_model=contract.Model, summary="Change a registered model")
    async def update_model(
        model: str,
        body: ModelUpdate,
        if_match: IfMatch = None,
        caller: Caller = governed("registry:model.update", resource_id=_ID),
    ) -> Response:
        shown, revision = await models.update(
            caller, model, description=body.description, tags=body.tags, revision=revision_of(if_match)
        )
        return answer(shown, revision=revision)

    @router.delete(_MODEL, status_code=204, summary="Delete a registered model that serves no endpoint")
    async def delete_model(
        model: str,
        if_match: IfMatch = None,
        caller: Caller = governed("registry:model.delete", resource_id=_ID),
    ) -> Response:
        await models.delete(caller, model, revision=revision_of(if_match))
        return Response(status_code=204)

    _add_alias_routes(router, operations)
    return router


def _add_alias_routes(router: APIRouter, operations: Operations) -> None:
    models = operations.models

    @router.put(_ALIAS, response_model=contract.Model, summary="Let an alias name a version")
    async def point_alias(
        model: str,
        alias: str,
        body: AliasPoint,
        caller: Caller = governed("registry:version.tag", resource_type="model", resource_id=_ID),
    ) -> Response:
        shown = await models.point_alias(caller, model, alias, body.version, reason=body.reason)
        return answer(shown)

    @router.get(_ALIAS, response_model=contract.Version, summary="Describe the version that an alias names")
    async def get_alias(
        model: str,
        alias: str,
        caller: Caller = governed("registry:version.read", resource_type="model", resource_id=_ID),
    ) -> Response:
        shown, revision = await operations.versions.by_alias(caller, model, alias)
        return answer(shown, revision=revision)

    @router.delete(_ALIAS, status_code=204, summary="Remove an alias")
    async def drop_alias(
        model: str,
        alias: str,
        caller: Caller = governed("registry:version.tag", resource_type="model", resource_id=_ID),
    ) -> Response:
        await models.drop_alias(caller, model, alias, reason="")
        return Response(status_code=204)

    @router.get(f"{_ALIAS}/history", summary="List the moves of an alias, newest first")
    async def alias_history(
        model: str,
        alias: str,
        page_size: PageSize = 50,
        page_token: PageToken = None,
        caller: Caller = governed("registry:version.read", resource_type="model", resource_id=_ID),
    ) -> Response:
        moves, following = await models.alias_history(
            caller, model, alias, size=bounded_page_size(page_size), token=page_token
        )
        shown = [{"version": m.version, "at": m.at, "by": m.by, "reason": m.reason} for m in moves]
        return answer({"moves": shown, "next_page_token": following})
