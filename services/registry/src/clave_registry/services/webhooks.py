"""Operations on webhooks: create, change, delete, try, and read what was delivered."""

from datetime import timedelta
from typing import Any, get_args

import orjson
from clave_common.access import Caller
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import FailedPrecondition, NotFound
from clave_common.ids import new_id
from clave_common.pages import decode_token, encode_token
from clave_contracts import registry as contract

from clave_registry.domain.webhook import AllowList, derived_secret, parsed_target
from clave_registry.services.governance import record_change, require_revision, tenant_of
from clave_registry.storage import webhooks
from clave_registry.storage.records import DeliveryRow, WebhookRow

ACTION = "registry:webhook.manage"
PING = "WebhookPinged"
EVENTS: frozenset[str] = frozenset(get_args(contract.WebhookEvent))
WEBHOOKS_PER_TENANT_MAX = 100


class TooManyWebhooks(FailedPrecondition):
    """A tenant has as many webhooks as it may have."""

    code = "too_many_webhooks"


class Webhooks:
    """Keep webhooks and their delivery log."""

    def __init__(self, database: Database, clock: Clock, *, key: bytes, allowed: AllowList) -> None:
        self._database = database
        self._clock = clock
        self._key = key
        self._allowed = allowed

    def _checked_url(self, url: str) -> str:
        self._allowed.require_host(parsed_target(url))
        return url

    async def create(self, caller: Caller, request: contract.WebhookCreate) -> contract.Webhook:
        """Create a webhook; the answer holds its secret, once.

        Raises:
            InvalidWebhookUrl: The url is none that a webhook may have.
            HostNotAllowed: The operator has not listed the host.
        """
        url, now, tenant = self._checked_url(request.url), self._clock.now(), tenant_of(caller)
        async with self._database.transaction() as tx:
            if len(await webhooks.page(tx, tenant, after=None, limit=WEBHOOKS_PER_TENANT_MAX)) >= (
                WEBHOOKS_PER_TENANT_MAX
            ):
                raise TooManyWebhooks(f"There are {WEBHOOKS_PER_TENANT_MAX} webhooks already; delete one first.")
            row = await webhooks.add(
                tx,
                {
                    "id": new_id("whk"),
                    "tenant": tenant,
                    "url": url,
                    "description": request.description,
                    "events": sorted(set(request.events)),
                    "model": request.model,
                    "format": request.format,
                    "created_by": caller.acting_for,
                    "created_at": now,
                    "updated_at": now,
                },
            )
            await self._audit(tx, caller, row, what="created")
        return to_webhook(row, secret=self._secret(row))

    async def get(self, caller: Caller, webhook_id: str) -> tuple[contract.Webhook, int]:
        """Describe a webhook; also gives its revision."""
        async with self._database.transaction() as tx:
            row = await self._owned(tx, caller, webhook_id)
        return to_webhook(row), row.revision

    async def list_page(self, caller: Caller, *, size: int, token: str | None) -> contract.WebhookPage:
        """List webhooks, oldest first."""
        query = f"webhooks:{tenant_of(caller)}"
        after = str(decode_token(token, query=query, kinds=(str,))[0]) if token else None
        async with self._database.transaction() as tx:
            rows = await webhooks.page(tx, tenant_of(caller), after=after, limit=size + 1)
        following = encode_token([rows[size - 1].id], query=query) if len(rows) > size else ""
        return contract.WebhookPage(webhooks=[to_webhook(row) for row in rows[:size]], next_page_token=following)

    async def update(
        self, caller: Caller, webhook_id: str, request: contract.WebhookUpdate, *, revision: int | None
    ) -> tuple[contract.Webhook, int]:
        """Change a webhook; switching it on forgets why it was off."""
        values: dict[str, Any] = request.model_dump(exclude_none=True)
        if request.url is not None:
            self._checked_url(request.url)
        if request.events is not None:
            values["events"] = sorted(set(request.events))
        if request.enabled:
            values["disabled_reason"] = ""
        async with self._database.transaction() as tx:
            row = await self._owned(tx, caller, webhook_id, lock=True)
            require_revision(row.revision, revision)
            row = await webhooks.change(tx, row.id, at=self._clock.now(), **values)
            await self._audit(tx, caller, row, what="changed", fields=sorted(values))
        return to_webhook(row), row.revision

    async def rotate(self, caller: Caller, webhook_id: str) -> contract.Webhook:
        """Give a webhook a new secret; for a day deliveries are signed with both."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            row = await self._owned(tx, caller, webhook_id, lock=True)
            row = await webhooks.change(tx, row.id, at=now, secret_generation=row.secret_generation + 1, rotated_at=now)
            await self._audit(tx, caller, row, what="secret rotated")
        return to_webhook(row, secret=self._secret(row))

    async def delete(self, caller: Caller, webhook_id: str, *, revision: int | None) -> None:
        """Delete a webhook and its delivery log."""
        async with self._database.transaction() as tx:
            row = await self._owned(tx, caller, webhook_id, lock=True)
            require_revision(row.revision, revision)
            await webhooks.remove(tx, row.id)
            await self._audit(tx, caller, row, what="deleted")

    async def ping(self, caller: Caller, webhook_id: str) -> None:
        """Send a `WebhookPinged` event to one webhook, whatever it listens to."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            row = await self._owned(tx, caller, webhook_id)
            event_id = new_id("evt")
            body = {
                "specversion": "1.0",
                "id": event_id,
                "type": PING,
                "source": "registry",
                "subject": f"webhooks/{row.id}",
                "time": now.isoformat(),
                "datacontenttype": "application/json",
                "tenant": row.tenant,
                "data": {"by": caller.acting_for},
            }
            await webhooks.enqueue(tx, [delivery(row, event_id, PING, orjson.dumps(body), now)])
            await self._audit(tx, caller, row, what="pinged")

    async def deliveries(
        self, caller: Caller, webhook_id: str, *, status: str | None, size: int, token: str | None
    ) -> contract.DeliveryPage:
        """List what was, or is to be, delivered; newest first."""
        query = f"deliveries:{webhook_id}:{status}"
        before = int(decode_token(token, query=query, kinds=(int,))[0]) if token else None
        async with self._database.transaction() as tx:
            await self._owned(tx, caller, webhook_id)
            rows = await webhooks.deliveries(tx, webhook_id, before=before, status=status, limit=size + 1)
        following = encode_token([rows[size - 1].seq], query=query) if len(rows) > size else ""
        return contract.DeliveryPage(deliveries=[to_delivery(row) for row in rows[:size]], next_page_token=following)

    async def redeliver(self, caller: Caller, webhook_id: str, delivery_id: str) -> contract.Delivery:
        """Send a delivery again, with all its attempts ahead."""
        async with self._database.transaction() as tx:
            row = await self._owned(tx, caller, webhook_id)
            found = await webhooks.redeliver(tx, webhook_id, delivery_id, at=self._clock.now())
            if found is None:
                raise NotFound(f"There is no delivery '{delivery_id}'.", code="delivery_not_found")
            await self._audit(tx, caller, row, what="redelivered", delivery_id=delivery_id)
        return to_delivery(found)

    def _secret(self, row: WebhookRow) -> str:
        return derived_secret(self._key, row.id, row.secret_generation)

    async def _owned(self, tx: Transaction, caller: Caller, webhook_id: str, *, lock: bool = False) -> WebhookRow:
        row = await webhooks.find(tx, tenant_of(caller), webhook_id, lock=lock)
        if row is None:
            raise NotFound(f"There is no webhook '{webhook_id}'.", code="webhook_not_found", webhook_id=webhook_id)
        return row

    async def _audit(self, tx: Transaction, caller: Caller, row: WebhookRow, *, what: str, **details: Any) -> None:
        host = parsed_target(row.url).host
        await record_change(
            tx, caller, ACTION, f"webhooks/{row.id}", tenant=row.tenant, what=what, host=host, **details
        )


def delivery(row: WebhookRow, event_id: str, event: str, body: bytes, at: Any) -> dict[str, Any]:
    """Build the row of a delivery that is due at once."""
    return {
        "id": new_id("dlv"),
        "webhook_id": row.id,
        "event_id": event_id,
        "event": event,
        "body": body,
        "next_at": at,
        "created_at": at,
    }


def to_webhook(row: WebhookRow, *, secret: str | None = None) -> contract.Webhook:
    """Show a webhook."""
    return contract.Webhook.model_validate(
        {
            "id": row.id,
            "url": row.url,
            "description": row.description,
            "events": row.events,
            "model": row.model,
            "format": row.format,
            "enabled": row.enabled,
            "disabled_reason": row.disabled_reason,
            "secret": secret,
            "created_at": row.created_at,
            "created_by": row.created_by,
            "updated_at": row.updated_at,
        }
    )


def to_delivery(row: DeliveryRow) -> contract.Delivery:
    """Show a delivery with its attempts."""
    return contract.Delivery.model_validate(
        {
            "id": row.id,
            "webhook_id": row.webhook_id,
            "event_id": row.event_id,
            "event": row.event,
            "status": row.status,
            "attempts": row.attempts,
            "next_at": row.next_at,
            "created_at": row.created_at,
        }
    )


ROTATION_OVERLAP = timedelta(days=1)
"""How long after a rotation deliveries are signed with the secret before, too."""
