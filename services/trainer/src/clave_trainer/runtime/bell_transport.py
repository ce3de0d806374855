"""Hears bells and nothing else: what lies in a worker's queue, and is no doorbell, never reaches Celery.

Celery ends at an item that is no message, and reads whatever else stands in one that is: bodies, chains, links. A bell
says nothing but where it lies. So each item is looked at as it comes out of Redis; a bell is handed on as a new message
of our own making, and anything else is set aside: kept in a short list, counted, and logged without its content.
"""

import base64
from typing import Any
from uuid import uuid4

import orjson
from clave_common.logs import get_logger
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport

from clave_trainer.doorbell import DOORBELL, SET_ASIDE

ITEM_BYTES_MAX = 16_384
SET_ASIDE_MAX = 100
_KEPT_BYTES_MAX = 1_024
_LOGGED_FIRST, _LOGGED_EACH = 10, 1_000
_BODY = base64.b64encode(b'[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]').decode()
_log = get_logger(__name__)


def fault_of(item: bytes) -> str | None:
    """Say in a word why an item of a queue is no bell; None when it is one."""
    if len(item) > ITEM_BYTES_MAX:
        return "too_large"
    try:
        document = orjson.loads(item)
    except orjson.JSONDecodeError:
        return "no_json"
    headers = document.get("headers") if isinstance(document, dict) else None
    if not isinstance(headers, dict):
        return "no_message"
    return None if headers.get("task") == DOORBELL else "another_task"


def bell(queue: str) -> bytes:
    """Write the message by which Celery hears of a bell in a queue."""
    identifier = uuid4().hex
    document = {
        "body": _BODY,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": DOORBELL, "id": identifier, "root_id": identifier, "ignore_result": True},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_mode": 2,
            "delivery_tag": identifier,
            "body_encoding": "base64",
        },
    }
    return orjson.dumps(document)


class BellChannel(Channel):
    """A channel out of which only bells come."""

    _set_aside = 0

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - the signature of kombu
        client = super()._create_client(asynchronous=asynchronous)  # type: ignore[misc]  # not in kombu's stubs
        client.set_response_callback("BRPOP", self._bells_only)
        return client

    def _bells_only(self, answer: list[bytes] | None, **_: Any) -> tuple[bytes, bytes] | None:
        """Look at what BRPOP gave; nothing, when it is no bell."""
        if not answer:
            return None
        key, item = answer
        name = key.decode(errors="replace").removeprefix(self.global_keyprefix).partition(self.sep)[0]
        why = fault_of(item)
        if why is None:
            return key, bell(name)
        self._put_aside(item, queue=name, why=why)
        return None

    def _put_aside(self, item: bytes, *, queue: str, why: str) -> None:
        self._set_aside += 1
        if self._set_aside <= _LOGGED_FIRST or self._set_aside % _LOGGED_EACH == 0:
            _log.warning("queue_item_set_aside", queue=queue, why=why, size=len(item), total=self._set_aside)
        with self.conn_or_acquire() as client:
            if client.lpush(SET_ASIDE, item[:_KEPT_BYTES_MAX]) > SET_ASIDE_MAX:
                client.rpop(SET_ASIDE)


class BellTransport(Transport):
    """Redis, with channels that hear bells alone."""

    Channel = BellChannel


def hear_bells_only() -> None:
    """Let Celery's connections of this process take this transport wherever a broker's URL says ``redis``."""
    path = f"{BellTransport.__module__}:{BellTransport.__qualname__}"
    TRANSPORT_ALIASES.update(redis=path, rediss=path)
