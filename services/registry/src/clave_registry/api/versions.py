"""Routes of model versions: register, read, tag, submit, approve, reject, archive; cards and lineage."""

from typing import Annotated, Any, Literal

from clave_common.access import Caller, governed
from clave_common.errors import InvalidArgument
from clave_common.idempotency import answer_once
from clave_common.pages import PageSize, PageToken
from clave_common.pages import page_size as bounded_page_size
from clave_contracts import registry as contract
from fastapi import APIRouter, Body, Header, Path, Query, Request
from pydantic import ValidationError
from starlette.responses import HTMLResponse, Response

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import VERSION_MAX, IfMatch, Reason, TagChange, answer, revision_of
from clave_registry.cards.rendering import render_html, render_markdown

_VERSIONS = f"{contract.API}/models/{{model}}/versions"
_VERSION = f"{_VERSIONS}/{{version}}"
_ID = "models/{model}/versions/{version}"
_TYPE = "model_version"
Form = Literal["json", "md", "html"]
_FORMS: dict[str, Form] = {"text/markdown": "md", "text/html": "html"}
Number = Annotated[int, Path(ge=1, le=VERSION_MAX)]


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
    _add_card_routes(router, operations)
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


def _add_card_routes(router: APIRouter, operations: Operations) -> None:
    @router.get(f"{_VERSION}/card", summary="Read the model card as JSON, Markdown or HTML")
    async def get_card(
        model: str,
        version: Number,
        form: Annotated[Form | None, Query(alias="format", description="Goes before Accept.")] = None,
        accept: Annotated[str, Header()] = "application/json",
        caller: Caller = governed("registry:version.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        card, revision = await operations.cards.get(caller, model, version)
        form = form or _accepted(accept)
        if form == "md":
            return Response(render_markdown(card), media_type="text/markdown; charset=utf-8")
        if form == "html":
            policy = "default-src 'none'; style-src 'unsafe-inline'"
            return HTMLResponse(render_html(card), headers={"Content-Security-Policy": policy})
        return answer(card, revision=revision)

    @router.patch(f"{_VERSION}/card", summary="Write the parts of the card that only a person can")
    async def edit_card(
        model: str,
        version: Number,
        changes: Annotated[dict[str, Any], Body(description="Fields of CardInput; absent = stays.")],
        if_match: IfMatch = None,
        caller: Caller = governed("registry:card.write", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        try:
            card, revision = await operations.cards.edit(
                caller, model, version, changes, revision=revision_of(if_match)
            )
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(str(part) for part in fault["loc"])
            raise InvalidArgument(f"{field}: {fault['msg']}.", field=field) from error
        return answer(card, revision=revision)


def _accepted(accept: str) -> Form:
    wanted = [part.partition(";")[0].strip() for part in accept.split(",")]
    return next((_FORMS[name] for name in wanted if name in _FORMS), "json")


def _add_lineage_routes(router: APIRouter, operations: Operations) -> None:
    @router.get(f"{_VERSION}/lineage", tags=["lineage"], summary="What a version was made from")
    async def version_lineage(
        model: str,
        version: Number,
        caller: Caller = governed("registry:lineage.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        return answer(await operations.lineage.of_version(caller, model, version))

    @router.get(f"{contract.API}/lineage", tags=["lineage"], summary="Which versions used this data?")
    async def dataset_lineage(
        dataset_digest: Annotated[str | None, Query(description="sha256 of a training set")] = None,
        dataset_id: str | None = None,
        caller: Caller = governed("registry:lineage.read"),
    ) -> Response:
        return answer(await operations.lineage.of_dataset(caller, digest=dataset_digest, dataset_id=dataset_id))
