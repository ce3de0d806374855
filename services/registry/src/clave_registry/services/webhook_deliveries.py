"""Brings events to webhooks: writes a delivery for each, sends what is due, notes what came of it.

Events come from the registry's own stream, filled from its outbox; a delivery is a row from then on. What was sent and
not noted (a crash in between) is sent again after a minute: receivers know an event by its id.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
from clave_common.background import Background
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.logs import get_logger
from clave_common.streams import Entry
from clave_contracts.events import Event

from clave_registry.domain import openlineage
from clave_registry.domain.webhook import Outcome, derived_secret, outcome_of, parsed_target, pause_s, signature
from clave_registry.runtime.webhook_sender import Attempt, WebhookSender
from clave_registry.services.webhooks import EVENTS, ROTATION_OVERLAP, delivery
from clave_registry.storage import models, versions, webhooks
from clave_registry.storage.records import DeliveryRow, WebhookRow

LOOP_NAME = "webhooks"
CONSUMER_NAME = "webhook_events"
OPENLINEAGE = "openlineage"
_LEASE = timedelta(seconds=60)
_BATCH = 10
_IDLE_S = 1.0
_PRUNE_EVERY_S = 3600.0
_KEPT = timedelta(days=30)
_TYPES = {"cloudevents": "application/cloudevents+json; charset=utf-8", OPENLINEAGE: "application/json"}
_log = get_logger(__name__)


class WebhookDeliveries:
    """Writes, sends and settles deliveries."""

    def __init__(self, database: Database, clock: Clock, sender: WebhookSender, *, key: bytes) -> None:
        self._database = database
        self._clock = clock
        self._sender = sender
        self._key = key

    async def handle(self, entries: Sequence[Entry]) -> None:
        """Write deliveries for a batch of the registry's own events; safe to repeat."""
        if not await webhooks.any_listens(self._database):
            return
        events = [Event.model_validate_json(entry.body) for entry in entries]
        async with self._database.transaction() as tx:
            for event in events:
                if event.type in EVENTS:
                    await self._enqueue(tx, event)

    async def _enqueue(self, tx: Transaction, event: Event) -> None:
        rows: list[dict[str, Any]] = []
        for row in await webhooks.listening(tx, event.tenant, event=event.type, model=event.data.get("model")):
            body = await self._body(tx, row, event)
            if body is not None:
                rows.append(delivery(row, event.id, event.type, body, self._clock.now()))
        await webhooks.enqueue(tx, rows)

    async def _body(self, tx: Transaction, row: WebhookRow, event: Event) -> bytes | None:
        if row.format != OPENLINEAGE:
            return orjson.dumps({**event.model_dump(mode="json"), "datacontenttype": "application/json"})
        if event.type != "ModelVersionRegistered":
            return None
        model = await models.by_name(tx, event.tenant, str(event.data["model"]))
        version = await versions.find(tx, model.id, int(event.data["version"])) if model else None
        if model is None or version is None:
            return None
        return orjson.dumps(
            openlineage.run_event(
                model=model.name,
                version=version.version,
                manifest_digest=version.manifest_digest,
                lineage=version.lineage,
                params=version.params,
                at=version.created_at,
            )
        )

    async def run(self, background: Background) -> None:
        """Deliver until cancelled."""
        pruned_at = 0.0
        clock = asyncio.get_running_loop()
        while True:
            sent = await self.deliver_due()
            background.healthy(LOOP_NAME)
            if clock.time() - pruned_at > _PRUNE_EVERY_S:
                pruned_at = clock.time()
                async with self._database.transaction() as tx:
                    await webhooks.prune(tx, before=self._clock.now() - _KEPT)
            if not sent:
                await asyncio.sleep(_IDLE_S)

    async def deliver_due(self) -> int:
        """Send what is due, once.

        Returns:
            How many deliveries were sent.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            due = await webhooks.take_due(tx, now=now, until=now + _LEASE, limit=_BATCH)
            owners = {row.id: row for row in await webhooks.several(tx, sorted({row.webhook_id for row in due}))}
        await asyncio.gather(*(self._deliver(owners[row.webhook_id], row) for row in due if row.webhook_id in owners))
        return len(due)

    async def _deliver(self, webhook: WebhookRow, row: DeliveryRow) -> None:
        now = self._clock.now()
        attempt = await self._sender.send(parsed_target(webhook.url), row.body, self._headers(webhook, row, now))
        noted = {"at": now.isoformat(), "status": attempt.status, "error": _why(attempt)}
        attempts = [*row.attempts, {**noted, "duration_ms": attempt.duration_ms}]
        outcome = outcome_of(attempt.status, attempts=len(attempts))
        over = outcome is not Outcome.PENDING
        pause = timedelta(seconds=pause_s(len(attempts), delivery_id=row.id))
        async with self._database.transaction() as tx:
            await webhooks.settle(
                tx,
                row,
                status=Outcome.FAILED if outcome is Outcome.GONE else outcome,
                attempts=attempts,
                next_at=None if over else self._clock.now() + pause,
            )
            if outcome is Outcome.GONE:
                reason = "the receiver answered 410 Gone"
                await webhooks.change(tx, webhook.id, at=now, enabled=False, disabled_reason=reason)
        if outcome in {Outcome.FAILED, Outcome.GONE}:
            _log.warning("webhook_given_up", webhook_id=webhook.id, delivery_id=row.id, status=attempt.status)

    def _headers(self, webhook: WebhookRow, row: DeliveryRow, now: datetime) -> dict[str, str]:
        generations = [webhook.secret_generation]
        if webhook.rotated_at is not None and now - webhook.rotated_at < ROTATION_OVERLAP:
            generations.append(webhook.secret_generation - 1)
        timestamp = int(now.timestamp())
        signatures = [
            signature(
                derived_secret(self._key, webhook.id, generation),
                message_id=row.event_id,
                timestamp=timestamp,
                body=row.body,
            )
            for generation in generations
        ]
        return {
            "content-type": _TYPES[webhook.format if row.event != "WebhookPinged" else "cloudevents"],
            "user-agent": "clave-registry",
            "webhook-id": row.event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signatures),
        }


def _why(attempt: Attempt) -> str:
    if attempt.error:
        return attempt.error
    if attempt.status is not None and 300 <= attempt.status < 400:  # noqa: PLR2004 - HTTP's own numbers
        return "redirects are not followed"
    return ""
