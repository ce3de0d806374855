"""Routes of model cards: read in any form, compare, complete; the bill of materials and the OpenLineage event."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from clave_common.access import Caller, governed
from clave_common.answer_headers import PAGE
from clave_common.errors import InvalidArgument
from clave_contracts import registry as contract
from clave_contracts.schema import Number
from fastapi import APIRouter, Body, Header, Query
from pydantic import ValidationError
from starlette.responses import HTMLResponse, Response

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import IfMatch, answer, revision_of
from clave_registry.cards.annex_iv import annex_iv, annex_iv_markdown
from clave_registry.cards.exports import hugging_face, model_card_toolkit, sagemaker
from clave_registry.cards.mlbom import cyclonedx_card, ml_bom
from clave_registry.cards.rendering import render_html, render_markdown

_VERSION = f"{contract.API}/models/{{model}}/versions/{{version}}"
_ID = "models/{model}/versions/{version}"
_TYPE = "model_version"
_MARKDOWN = "text/markdown; charset=utf-8"
_BOM = "application/vnd.cyclonedx+json; version=1.6"
Form = Literal[
    "json", "md", "html", "model-card-toolkit", "huggingface", "sagemaker", "cyclonedx", "annex-iv", "annex-iv-md"
]
_ACCEPTED: dict[str, Form] = {"text/markdown": "md", "text/html": "html"}
_JSON_FORMS: dict[Form, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "model-card-toolkit": model_card_toolkit,
    "sagemaker": sagemaker,
    "cyclonedx": cyclonedx_card,
    "annex-iv": annex_iv,
}


def card_routes(operations: Operations) -> APIRouter:
    """Build the routes of cards."""
    router = APIRouter(tags=["cards"])
    cards = operations.cards

    @router.get(f"{_VERSION}/card", summary="Read the model card, in clave's form or another's")
    async def get_card(
        model: str,
        version: Number,
        form: Annotated[Form | None, Query(alias="format", description="Goes before Accept.")] = None,
        accept: Annotated[str, Header()] = "application/json",
        caller: Caller = governed("registry:version.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        card, revision = await cards.get(caller, model, version)
        return rendered(card, form or _accepted(accept), revision=revision)

    @router.get(f"{_VERSION}/card/diff", summary="Compare a card with the champion's, or with another version's")
    async def diff_card(
        model: str,
        version: Number,
        other: Annotated[Number | None, Query(alias="with")] = None,
        caller: Caller = governed("registry:version.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        return answer(await cards.diff(caller, model, version, other))

    @router.patch(f"{_VERSION}/card", summary="Write the parts of the card that only a person can")
    async def edit_card(
        model: str,
        version: Number,
        changes: Annotated[dict[str, Any], Body(description="Fields of CardInput; absent = stays.")],
        if_match: IfMatch = None,
        caller: Caller = governed("registry:card.edit", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        try:
            card, revision = await cards.edit(caller, model, version, changes, revision=revision_of(if_match))
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(str(part) for part in fault["loc"])
            raise InvalidArgument(f"{field}: {fault['msg']}.", field=field) from error
        return answer(card, revision=revision)

    _add_document_routes(router, operations)
    return router


def _add_document_routes(router: APIRouter, operations: Operations) -> None:
    @router.get(f"{_VERSION}/ml-bom", summary="Read the bill of materials (CycloneDX 1.6)")
    async def get_ml_bom(
        model: str,
        version: Number,
        caller: Caller = governed("registry:version.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        card, artifacts = await operations.cards.get_with_artifacts(caller, model, version)
        response = answer(ml_bom(card, artifacts))
        response.headers["content-type"] = _BOM
        return response

    @router.get(f"{_VERSION}/openlineage", tags=["lineage"], summary="Read the OpenLineage event of its making")
    async def get_openlineage(
        model: str,
        version: Number,
        caller: Caller = governed("registry:lineage.read", resource_type=_TYPE, resource_id=_ID),
    ) -> Response:
        return answer(await operations.lineage.openlineage(caller, model, version))


def rendered(card: dict[str, Any], form: Form, *, revision: int) -> Response:
    """Answer with a card in the form asked for."""
    if form in _JSON_FORMS:
        return answer(_JSON_FORMS[form](card), revision=revision)
    if form == "html":
        return HTMLResponse(render_html(card), headers=PAGE)
    texts: dict[Form, Callable[[], str]] = {
        "md": lambda: render_markdown(card),
        "huggingface": lambda: hugging_face(card, render_markdown(card)),
        "annex-iv-md": lambda: annex_iv_markdown(annex_iv(card)),
    }
    if form in texts:
        return Response(texts[form](), media_type=_MARKDOWN)
    return answer(card, revision=revision)


def _accepted(accept: str) -> Form:
    wanted = [part.partition(";")[0].strip() for part in accept.split(",")]
    return next((_ACCEPTED[name] for name in wanted if name in _ACCEPTED), "json")
