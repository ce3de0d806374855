"""The Celery application: one task without arguments, a doorbell that says "there may be work".

Celery carries no truth here. The message is acknowledged before the work starts and has no result; losing or
doubling it does no harm, because work is claimed in Postgres. One queue per resource class.
"""

from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from celery import Celery

DOORBELL = "clave_trainer.doorbell"
SET_ASIDE = "set_aside"
"""List of items that were no bells, behind the prefix of Celery's keys."""
_QUEUE_PREFIX = "trainer."
_KEY_PREFIX = "clave.celery."


def queue_of(resource_class: str) -> str:
    """Name the queue of a resource class."""
    return f"{_QUEUE_PREFIX}{resource_class}"


def class_of(queue: str) -> str:
    """Name the resource class of a queue."""
    return queue.removeprefix(_QUEUE_PREFIX)


def broker_url(url: str) -> str:
    """Turn a Redis URL into the one that Celery's transport reads: sockets are ``redis+socket://`` there."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    database = asked.get("db", "0")
    password = unquote(parts.password) if parts.password else asked.get("password")
    secret = f"{parts.username or ''}:{quote(password, safe='')}@" if password else ""
    return f"redis+socket://{secret}{parts.path}?virtual_host={database}"


def create_celery(url: str) -> Celery:
    """Configure Celery as a doorbell on a Redis URL."""
    app = Celery("clave_trainer", broker=broker_url(url), set_as_current=False)
    options: dict[str, Any] = {
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "global_keyprefix": _KEY_PREFIX,
        "visibility_timeout": 60,
    }
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=queue_of("light"),
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=options,
    )
    return app


def ring(app: Celery, resource_class: str) -> None:
    """Send a doorbell; raises what kombu raises while the broker is away."""
    app.send_task(DOORBELL, queue=queue_of(resource_class), retry=False, ignore_result=True, expires=600)
