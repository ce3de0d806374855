"""Routes of entities, views, feature services and of the repository as a whole."""

from typing import Any

from clave_common.access import Caller, governed
from clave_common.access.filters import visible_row
from clave_contracts import features as wire
from fastapi import APIRouter

from clave_features.domain.definitions import Repository
from clave_features.domain.errors import EntityNotFound, ServiceNotFound, ViewNotFound
from clave_features.services.catalogue import ENTITY, SERVICE, VIEW, Catalogue, Catalogues
from clave_features.storage.definitions import DefinitionRow

_MISSING = {ENTITY: EntityNotFound, VIEW: ViewNotFound, SERVICE: ServiceNotFound}
_WORDS = {ENTITY: "entity", VIEW: "view", SERVICE: "feature service"}


def _shown(row: DefinitionRow) -> dict[str, Any]:
    return {**row.document, "name": row.name, "version": row.version, "digest": row.digest}


def definitions_router(catalogues: Catalogues) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix=wire.API, tags=["definitions"])
    _add_repository(router, catalogues)
    _add_lists(router, catalogues)
    _add_reads(router, catalogues)
    return router


def _add_repository(router: APIRouter, catalogues: Catalogues) -> None:
    @router.put("/repository", summary="Apply a whole repository, all or nothing")
    async def apply(
        body: wire.Repository,
        dry_run: bool = False,  # noqa: FBT001, FBT002 - a query parameter
        caller: Caller = governed("features:view.write", resource_id="repository"),
    ) -> wire.ApplyAnswer:
        return await catalogues.apply(body, caller, dry_run=dry_run)

    @router.get("/repository", summary="Read every definition in force")
    async def repository(_caller: Caller = governed("features:view.list")) -> dict[str, Any]:
        current = catalogues.current
        kinds = {"entities": ENTITY, "feature_views": VIEW, "feature_services": SERVICE}
        return {
            "revision": current.revision,
            **{field: [row.document for row in current.listed(kind)] for field, kind in kinds.items()},
        }


def _add_lists(router: APIRouter, catalogues: Catalogues) -> None:
    def listed(caller: Caller, folder: str, kind: str) -> dict[str, Any]:
        rows = [row for row in catalogues.current.listed(kind) if visible_row(caller, f"{folder}/{row.name}")]
        return {"items": [_shown(row) for row in rows], "next_page_token": None}

    @router.get("/entities", summary="List entities")
    async def entities(caller: Caller = governed("features:view.list", listing=True)) -> dict[str, Any]:
        return listed(caller, "entities", ENTITY)

    @router.get("/views", summary="List feature views and label views")
    async def views(caller: Caller = governed("features:view.list", listing=True)) -> dict[str, Any]:
        return listed(caller, "views", VIEW)

    @router.get("/feature-services", summary="List feature services")
    async def services(caller: Caller = governed("features:view.list", listing=True)) -> dict[str, Any]:
        return listed(caller, "feature-services", SERVICE)


def _add_reads(router: APIRouter, catalogues: Catalogues) -> None:
    @router.get("/entities/{name}", summary="Read an entity")
    async def entity(
        name: str, _caller: Caller = governed("features:view.read", resource_id="entities/{name}")
    ) -> dict[str, Any]:
        return _one(catalogues.current, ENTITY, name)

    @router.get("/views/{name}", summary="Read a view")
    async def view(
        name: str, _caller: Caller = governed("features:view.read", resource_id="views/{name}")
    ) -> dict[str, Any]:
        return _one(catalogues.current, VIEW, name)

    @router.get("/feature-services/{name}", summary="Read a feature service with its columns")
    async def service(
        name: str, _caller: Caller = governed("features:view.read", resource_id="feature-services/{name}")
    ) -> dict[str, Any]:
        current = catalogues.current
        return {**_one(current, SERVICE, name), **_inputs(current.repository, name)}


def _one(current: Catalogue, kind: str, name: str) -> dict[str, Any]:
    row = current.rows.get((kind, name))
    if row is None:
        known = ", ".join(other.name for other in current.listed(kind)) or "none"
        raise _MISSING[kind](f"There is no {_WORDS[kind]} '{name}'. Applied: {known}.", name=name)
    return _shown(row)


def _inputs(repository: Repository, name: str) -> dict[str, Any]:
    service = repository.service(name)
    columns = [
        {
            "name": ref.column,
            "view": ref.view,
            "dtype": repository.feature(ref).dtype,
            "levels": list(repository.feature(ref).levels) or None,
        }
        for ref in service.features
    ]
    keys = {key: dtype for view in service.views for key, dtype in repository.entity(repository.view(view).entity).keys}
    return {"columns": columns, "entity_keys": keys}
