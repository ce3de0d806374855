"""Composition root of a worker: Celery hears the bells, one event loop does the steps."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any

from celery import Celery
from celery.apps.worker import Worker as CeleryWorker
from clave_common.access.service_tokens import ServiceTokenMinter
from clave_common.blobstore import open_blob_store
from clave_common.clock import SystemClock
from clave_common.database import Database
from clave_common.logs import configure_logs, get_logger
from clave_common.peers import peer_client
from clave_contracts.features import FeaturesClient
from clave_contracts.monitor import MonitorClient
from clave_contracts.registry import RegistryClient

from clave_trainer.doorbell import DOORBELL, class_of, create_celery, queue_of
from clave_trainer.runtime.bell_transport import hear_bells_only
from clave_trainer.runtime.compute_process import clear_rooms_of_the_dead
from clave_trainer.services.engine import Engine
from clave_trainer.settings import TrainerSettings
from clave_trainer.slots import Slots
from clave_trainer.steps.context import Peers
from clave_trainer.storage.tables import METADATA
from clave_trainer.tasks import Worker

_log = get_logger(__name__)
_PEER_TIMEOUT_S = 120.0  # a training set is made while its caller waits


class LoopThread:
    """An event loop in a thread of its own, where every slot's step runs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="steps", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the loop and wait for its result from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


def build_worker(settings: TrainerSettings) -> Worker:
    """Put a worker together; nothing is connected before its first bell."""
    clock = SystemClock()
    database = Database(
        settings.database_url.get_secret_value(),
        METADATA,
        service="trainer",
        connections_max=max(3, 2 * settings.worker_slots),
    )
    minter = ServiceTokenMinter.from_file("trainer", settings.secrets_dir / "trainer.pem")
    urls = settings.peers

    def client(target: str, url: str) -> Any:
        return peer_client(minter, target=target, url=url, timeout_s=_PEER_TIMEOUT_S)

    peers = Peers(
        features=FeaturesClient(client("features", urls.features_url)),
        registry=RegistryClient(client("registry", urls.registry_url)),
        monitor=MonitorClient(client("monitor", urls.monitor_url)),
    )
    return Worker(
        settings,
        database=database,
        engine=Engine(database, clock, lease_s=settings.lease_s),
        peers=peers,
        blobs=open_blob_store(settings.blob_url),
    )


def bind_doorbell(app: Celery, slots: Slots) -> None:
    """Make the doorbell task wake a slot."""

    @app.task(name=DOORBELL, bind=True, ignore_result=True)
    def doorbell(self: Any) -> None:
        slots.hear(class_of(str(self.request.delivery_info["routing_key"])))


def run_worker() -> int:
    """Serve bells until SIGTERM; running steps get the grace time to end, others start again elsewhere."""
    settings = TrainerSettings()
    configure_logs(service="trainer-worker", form=settings.peers.log_format, level=settings.peers.log_level)
    rooms = settings.data_dir / "rooms"
    rooms.mkdir(parents=True, exist_ok=True)
    clear_rooms_of_the_dead(rooms)
    hear_bells_only()
    app = create_celery(settings.redis_url.get_secret_value())
    steps = LoopThread()
    slots = Slots(steps.loop, build_worker(settings).answer, settings.worker_slots)
    bind_doorbell(app, slots)
    queues = [queue_of(name.strip()) for name in settings.worker_classes.split(",") if name.strip()]
    _log.info("worker_started", queues=queues, slots=settings.worker_slots, threads=settings.threads)
    celery_worker = CeleryWorker(
        app=app,
        hostname=f"trainer-{os.getpid()}@localhost",
        pool_cls="solo",
        concurrency=1,
        queues=queues,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    celery_worker.start()
    left = steps.wait_for(slots.drain(settings.shutdown_grace_s))
    _log.info("worker_stopped", steps_left_to_their_lease=left)
    return int(celery_worker.exitcode or 0)
