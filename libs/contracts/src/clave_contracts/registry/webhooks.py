"""Webhooks: what the registry takes and gives."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from clave_contracts.registry.versions import Page
from clave_contracts.schema import Answer, Request

WebhookEvent = Literal[
    "ModelVersionRegistered",
    "ModelVersionStatusChanged",
    "ModelAliasChanged",
    "RolloutChanged",
    "DesiredStateChanged",
    "WebhookPinged",
]
WebhookFormat = Literal["cloudevents", "openlineage"]
DeliveryStatus = Literal["pending", "delivered", "failed"]


class WebhookCreate(Request):
    """Where to send events.

    Attributes:
        url: On a host that the operator allows.
        events: Types to send; empty = all.
        model: Only events of this registered model; None = of all.
        format: ``openlineage`` sends a run event for each registered version, and nothing else.
    """

    url: str = Field(max_length=2_000)
    description: str = Field(default="", max_length=1_000)
    events: list[WebhookEvent] = Field(default_factory=list, max_length=20)
    model: str | None = Field(default=None, max_length=256)
    format: WebhookFormat = "cloudevents"


class WebhookUpdate(Request):
    """What may change about a webhook; absent = stays."""

    url: str | None = Field(default=None, max_length=2_000)
    description: str | None = Field(default=None, max_length=1_000)
    events: list[WebhookEvent] | None = Field(default=None, max_length=20)
    enabled: bool | None = None


class Webhook(Answer):
    """A webhook.

    Attributes:
        secret: Only in the answers to its creation and to a rotation of its secret.
        disabled_reason: Why it is off, when it was not switched off by hand.
    """

    id: str
    url: str
    description: str = ""
    events: list[WebhookEvent] = Field(default_factory=list)
    model: str | None = None
    format: WebhookFormat = "cloudevents"
    enabled: bool = True
    disabled_reason: str = ""
    secret: str | None = None
    created_at: datetime
    created_by: str
    updated_at: datetime


class WebhookPage(Page):
    """A page of webhooks."""

    webhooks: list[Webhook]


class DeliveryAttempt(Answer):
    """One try to deliver."""

    at: datetime
    status: int | None = None
    error: str = ""
    duration_ms: float


class Delivery(Answer):
    """One event on its way to one webhook.

    Attributes:
        next_at: When it is tried again; None once it is over.
    """

    id: str
    webhook_id: str
    event_id: str
    event: WebhookEvent
    status: DeliveryStatus
    attempts: list[DeliveryAttempt] = Field(default_factory=list)
    next_at: datetime | None = None
    created_at: datetime


class DeliveryPage(Page):
    """A page of deliveries."""

    deliveries: list[Delivery]
