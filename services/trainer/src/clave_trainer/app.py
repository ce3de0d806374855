"""Composition root of the trainer's API, with the loops that keep runs moving."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from clave_common.access.wiring import AccessKit, open_access
from clave_common.background import Background
from clave_common.clock import SystemClock
from clave_common.database import Database
from clave_common.logs import configure_logs
from clave_common.outbox import LOOP_NAME as OUTBOX_LOOP
from clave_common.outbox import OutboxRelay
from clave_common.redis_client import connect_redis
from clave_common.serve import serve
from clave_common.service_app import create_service_app
from clave_common.streams import StreamConsumer
from clave_contracts.events import event_stream
from fastapi import FastAPI
from redis.asyncio import Redis

from clave_trainer.api import create_router
from clave_trainer.consumer import RetrainingConsumer
from clave_trainer.doorbell import create_celery, ring
from clave_trainer.services.engine import Engine
from clave_trainer.services.pipelines import Pipelines
from clave_trainer.services.runs import Runs
from clave_trainer.services.schedules import Schedules
from clave_trainer.settings import TrainerSettings
from clave_trainer.storage.tables import METADATA

DESCRIPTION = "Pipelines, runs and schedules: from features to a rolled-out model, durably."
_GROUP = "trainer"
_IDLE_S_MIN = 0.05


def create_app(settings: TrainerSettings, kit: AccessKit, database: Database, redis: Redis) -> FastAPI:
    """Put the service together."""
    clock = SystemClock()
    runs = Runs(database, clock, kit.access)
    schedules = Schedules(database, clock, kit.access)
    engine = Engine(database, clock, lease_s=settings.lease_s)
    background = Background()
    celery = create_celery(settings.redis_url.get_secret_value())

    async def bell(resource_class: str) -> None:
        await asyncio.to_thread(ring, celery, resource_class)

    consumer = StreamConsumer(redis, streams=[event_stream("monitor")], group=_GROUP, consumer="trainer")
    retraining = RetrainingConsumer(database, clock, kit.access)
    background.add("access", partial(kit.run, background))
    background.add(OUTBOX_LOOP, partial(OutboxRelay(database, redis, kit.audit_signer).run, background))
    background.add("bells", partial(_every, background, "bells", 0.4, partial(engine.ring, bell)))
    background.add("reaper", partial(_every, background, "reaper", 1.0, engine.reap))
    background.add("schedules", partial(_every, background, "schedules", 0.5, schedules.fire_due))
    background.add("retraining", partial(consumer.run, retraining.handle, background, "retraining"))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with background:
            yield
        await database.close()
        await redis.aclose()

    async def redis_answers() -> None:
        await redis.ping()

    return create_service_app(
        service="trainer",
        version=version("clave-trainer"),
        description=DESCRIPTION,
        routers=[create_router(database, Pipelines(database, kit.access), runs, schedules)],
        access=kit.access,
        verifier=kit.verifier,
        checks={"database": database.ping, "redis": redis_answers, "access": kit.ready},
        lifespan=lifespan,
        body_bytes_max=settings.run_body_bytes_max,
    )


async def _every(background: Background, name: str, idle_s_max: float, work: Callable[[], Awaitable[int]]) -> None:
    """Repeat a round of work: at once while there is more to do, then ever more seldom up to a bound."""
    idle_s = _IDLE_S_MIN
    while True:
        done = await work()
        background.healthy(name)
        idle_s = _IDLE_S_MIN if done else min(idle_s * 1.5, idle_s_max)
        await asyncio.sleep(idle_s)


def run_service() -> int:
    """Serve the API until SIGTERM."""
    settings = TrainerSettings()
    configure_logs(service="trainer", form=settings.peers.log_format, level=settings.peers.log_level)
    redis = connect_redis(settings.redis_url.get_secret_value())
    kit = open_access(settings, service="trainer", redis=redis, one_tenant=True)
    database = Database(
        settings.database_url.get_secret_value(),
        METADATA,
        service="trainer",
        connections_max=settings.database_connections_max,
    )
    serve(create_app(settings, kit, database, redis), settings)
    return 0


def run_migrations() -> int:
    """Bring the schema to its newest revision."""
    from clave_common.migrations import migrate  # noqa: PLC0415 - 8 MB of Alembic that a serving process does without

    settings = TrainerSettings()
    configure_logs(service="trainer", form=settings.peers.log_format, level=settings.peers.log_level)
    migrate(url=settings.database_url.get_secret_value(), package="clave_trainer", metadata=METADATA)
    return 0
