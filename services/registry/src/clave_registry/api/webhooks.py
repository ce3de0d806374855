"""Routes of webhooks and their delivery log."""

from clave_common.access import Caller, governed
from clave_common.answer_headers import HOLDS_A_SECRET
from clave_common.idempotency import answer_once
from clave_common.pages import PageSize, PageToken
from clave_common.pages import page_size as bounded_page_size
from clave_contracts import registry as contract
from fastapi import APIRouter, Request
from starlette.responses import Response

from clave_registry.api.operations import Operations
from clave_registry.api.rendering import IfMatch, answer, revision_of

_WEBHOOKS = f"{contract.API}/webhooks"
_WEBHOOK = f"{_WEBHOOKS}/{{webhook_id}}"
_ID = "webhooks/{webhook_id}"
_READ, _MANAGE = "registry:webhook.read", "registry:webhook.manage"


def webhook_routes(operations: Operations) -> APIRouter:
    """Build the routes of webhooks."""
    router = APIRouter(tags=["webhooks"])
    webhooks = operations.webhooks

    @router.post(_WEBHOOKS, status_code=201, response_model=contract.Webhook, summary="Create a webhook")
    async def create_webhook(
        body: contract.WebhookCreate, request: Request, caller: Caller = governed(_MANAGE)
    ) -> Response:
        async def create() -> Response:
            return answer(await webhooks.create(caller, body), status=201, headers=HOLDS_A_SECRET)

        return await answer_once(
            operations.database, request, principal=caller.subject_id, answer=create, shown_once="secret"
        )

    @router.get(_WEBHOOKS, response_model=contract.WebhookPage, summary="List webhooks, oldest first")
    async def list_webhooks(
        page_size: PageSize = 50, page_token: PageToken = None, caller: Caller = governed(_READ)
    ) -> Response:
        return answer(await webhooks.list_page(caller, size=bounded_page_size(page_size), token=page_token))

    @router.get(_WEBHOOK, response_model=contract.Webhook, summary="Describe a webhook")
    async def get_webhook(webhook_id: str, caller: Caller = governed(_READ, resource_id=_ID)) -> Response:
        shown, revision = await webhooks.get(caller, webhook_id)
        return answer(shown, revision=revision)

    @router.patch(_WEBHOOK, response_model=contract.Webhook, summary="Change a webhook, or switch it on or off")
    async def update_webhook(
        webhook_id: str,
        body: contract.WebhookUpdate,
        if_match: IfMatch = None,
        caller: Caller = governed(_MANAGE, resource_id=_ID),
    ) -> Response:
        shown, revision = await webhooks.update(caller, webhook_id, body, revision=revision_of(if_match))
        return answer(shown, revision=revision)

    @router.delete(_WEBHOOK, status_code=204, summary="Delete a webhook and its delivery log")
    async def delete_webhook(
        webhook_id: str, if_match: IfMatch = None, caller: Caller = governed(_MANAGE, resource_id=_ID)
    ) -> Response:
        await webhooks.delete(caller, webhook_id, revision=revision_of(if_match))
        return Response(status_code=204)

    _add_delivery_routes(router, operations)
    return router


def _add_delivery_routes(router: APIRouter, operations: Operations) -> None:
    webhooks = operations.webhooks

    @router.post(f"{_WEBHOOK}/rotate-secret", response_model=contract.Webhook, summary="Give it a new secret")
    async def rotate_webhook_secret(webhook_id: str, caller: Caller = governed(_MANAGE, resource_id=_ID)) -> Response:
        return answer(await webhooks.rotate(caller, webhook_id), headers=HOLDS_A_SECRET)

    @router.post(f"{_WEBHOOK}/ping", status_code=202, summary="Send it a WebhookPinged event")
    async def ping_webhook(webhook_id: str, caller: Caller = governed(_MANAGE, resource_id=_ID)) -> Response:
        await webhooks.ping(caller, webhook_id)
        return Response(status_code=202)

    @router.get(f"{_WEBHOOK}/deliveries", response_model=contract.DeliveryPage, summary="List deliveries, newest first")
    async def list_deliveries(
        webhook_id: str,
        status: contract.DeliveryStatus | None = None,
        page_size: PageSize = 50,
        page_token: PageToken = None,
        caller: Caller = governed(_READ, resource_id=_ID),
    ) -> Response:
        size = bounded_page_size(page_size)
        return answer(await webhooks.deliveries(caller, webhook_id, status=status, size=size, token=page_token))

    @router.post(
        f"{_WEBHOOK}/deliveries/{{delivery_id}}/redeliver",
        status_code=202,
        response_model=contract.Delivery,
        summary="Send a delivery again",
    )
    async def redeliver(
        webhook_id: str, delivery_id: str, caller: Caller = governed(_MANAGE, resource_id=_ID)
    ) -> Response:
        return answer(await webhooks.redeliver(caller, webhook_id, delivery_id), status=202)
