"""Routes of model versions: register, read, tag, submit, approve, reject, archive; cards and lineage."""

from typing import Annotated

from clave_common.access import Caller, governed
from clave_common.idempotency import answer_once
from clave_common.pages import PageSize, PageToken
from clave_common.pages import page_size as bounded_page_size
from clave_contracts import registry as contract
from clave_contracts.schema import Number
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import EntityKeys, IfMatch, Reason, TagChange, answer, revision_of

_VERSIONS = f"{contract.API}/models/{{model}}/versions"
_VERSION = f"{_VERSIONS}/{{version}}"
_ID = "models/{model}/versions/{version}"
_TYPE = "model_version"


def version_routes(operations: Operations) -> APIRouter:
    """Build the routes of model versions."""
    router = APIRouter(tags=["versions"])
    versions = operations.versions

    @router.post(_VERSIONS, status_code=201, response_model=contract.Version, summary="Register a version")
    async def create_version(
        model: str,
        body: contract.VersionCreate,
        request: Request,
        caller: Caller = governed("registry:version.create", resource_type=_TYPE, resource_id="models/{model}"),
    ) -> Response:
        async def create() -> Response:
            return answer(await versions.create(caller, model, body), status=201)

        return await answer_once(operations.database, request, principal=caller.subject_id, answer=create)

    @router.get(_VERSIONS, response_model=contract.VersionPage, summary="List versions, newest first")
    async def list_versions(
        model: str,
        status: contract.VersionStatus | None = None,
        page_size: PageSize = 50,
        page_token: PageToken = None,
        caller: Caller = governed("registry:version.read", resource_type=_TYPE, resource_id="models/{model}"),
    ) -> Response:
        size = bounded_page_size(page_size)
        return answer(await versions.list_page(caller, model, size=size, token=page_token, status=status))

    @router.get(_VERSION, response_model=contract.Version, summary="Describe a version")
    async def get_version(
        model: str,
        version: Number,
        caller: Caller = governed("registry:version.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        shown, revision = await versions.get(caller, model, version)
        return answer(shown, revision=revision)

    @router.get(f"{_VERSION}/history", summary="List what was done to a version, oldest first")
    async def version_history(
        model: str,
        version: Number,
        caller: Caller = governed("registry:version.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        return answer({"events": await versions.history(caller, model, version)})

    @router.patch(f"{_VERSION}/tags", response_model=contract.Version, summary="Set or remove tags")
    async def tag_version(
        model: str,
        version: Number,
        body: TagChange,
        if_match: IfMatch = None,
        caller: Caller = governed("registry:version.tag", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        shown, revision = await versions.tag(caller, model, version, body.tags, revision=revision_of(if_match))
        return answer(shown, revision=revision)

    _add_stage_routes(router, operations)
    _add_lineage_routes(router, operations)
    return router


def _add_stage_routes(router: APIRouter, operations: Operations) -> None:
    approvals = operations.approvals

    @router.post(f"{_VERSION}/submit", response_model=contract.Version, summary="Ask for approval")
    async def submit_version(
        model: str,
        version: Number,
        body: contract.SubmitRequest,
        if_match: IfMatch = None,
        caller: Caller = governed("registry:version.submit", in_operation=True),
    ) -> Response:
        revision = revision_of(if_match)
        return answer(await approvals.submit(caller, model, version, namespace=body.namespace, revision=revision))

    @router.post(f"{_VERSION}/approve", response_model=contract.Version, summary="Approve, as a person")
    async def approve_version(
        model: str,
        version: Number,
        body: contract.ApprovalRequest,
        if_match: IfMatch = None,
        caller: Caller = governed("registry:version.approve", in_operation=True),
    ) -> Response:
        revision = revision_of(if_match)
        return answer(
            await approvals.approve(
                caller, model, version, comment=body.comment, namespace=body.namespace, revision=revision
            )
        )

    @router.post(f"{_VERSION}/reject", response_model=contract.Version, summary="Reject, as a person")
    async def reject_version(
        model: str,
        version: Number,
        body: contract.ApprovalRequest,
        if_match: IfMatch = None,
        caller: Caller = governed("registry:version.reject", in_operation=True),
    ) -> Response:
        revision = revision_of(if_match)
        return answer(
            await approvals.reject(
                caller, model, version, comment=body.comment, namespace=body.namespace, revision=revision
            )
        )

    @router.post(f"{_VERSION}/archive", response_model=contract.Version, summary="Take a version out of use")
    async def archive_version(
        model: str,
        version: Number,
        body: Reason,
        if_match: IfMatch = None,
        caller: Caller = governed("registry:version.archive", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        revision = revision_of(if_match)
        return answer(await approvals.archive(caller, model, version, reason=body.reason, revision=revision))


def _add_lineage_routes(router: APIRouter, operations: Operations) -> None:
    @router.get(f"{_VERSION}/lineage", tags=["lineage"], summary="What a version was made from")
    async def version_lineage(
        model: str,
        version: Number,
        caller: Caller = governed("registry:lineage.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        return answer(await operations.lineage.of_version(caller, model, version))

    @router.post(
        f"{contract.API}/lineage/entity",
        tags=["lineage"],
        summary="What must be retrained when this customer withdraws consent?",
    )
    async def entity_lineage(
        body: EntityKeys,
        caller: Caller = governed(
            "features:offline.read",
            resource_type="training_set",
            resource_id="training-sets",
            properties={"features": []},
        ),
    ) -> Response:
        return answer(await operations.lineage.of_entity(caller, body.keys))

    @router.get(f"{contract.API}/lineage", tags=["lineage"], summary="Which versions used this data?")
    async def dataset_lineage(
        dataset_digest: Annotated[str | None, Query(description="sha256 of a training set")] = None,
        dataset_id: str | None = None,
        caller: Caller = governed("registry:lineage.read"),
    ) -> Response:
        return answer(await operations.lineage.of_dataset(caller, digest=dataset_digest, dataset_id=dataset_id))
