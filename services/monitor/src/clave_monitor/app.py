"""The monitor's composition root: reads the settings once and wires everything."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from clave_common.access import Access
from clave_common.access.wiring import AccessKit, open_access
from clave_common.background import Background
from clave_common.clock import Clock, SystemClock
from clave_common.database import Database
from clave_common.outbox import LOOP_NAME as OUTBOX_LOOP
from clave_common.outbox import OutboxRelay
from clave_common.peers import peer_client
from clave_common.readiness import Check
from clave_common.redis_client import connect_redis
from clave_common.service_app import create_service_app
from clave_common.settings import ServiceSettings
from clave_common.streams import StreamConsumer
from clave_contracts.events import PREDICTION_STREAM, event_stream
from clave_contracts.registry import RegistryClient
from fastapi import APIRouter, FastAPI
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from redis.asyncio import Redis

from clave_monitor.api.governing import governing_routes
from clave_monitor.api.operations import Operations
from clave_monitor.api.outcomes import outcome_routes
from clave_monitor.api.reading import reading_routes
from clave_monitor.consumer import PredictionConsumer, RunConsumer
from clave_monitor.loops import LOOP_NAME as EVALUATION_LOOP
from clave_monitor.loops import EvaluationLoop
from clave_monitor.runtime.log_store import LogStore, open_log_store
from clave_monitor.runtime.metrics import Metrics
from clave_monitor.runtime.references import ReferenceSource, RegistryReferences
from clave_monitor.services.comparison import Comparison
from clave_monitor.services.evaluation import Evaluation
from clave_monitor.services.governing import Governing
from clave_monitor.services.ingestion import Ingestion
from clave_monitor.services.prediction_log import LOOP_NAME as LOG_LOOP
from clave_monitor.services.prediction_log import PredictionLog
from clave_monitor.services.reporting import Reporting
from clave_monitor.services.wakeup import WakeUp
from clave_monitor.storage.tables import metadata

VERSION = "0.1.0"
_GROUP = "monitor"
_ENTRIES_PER_TRANSACTION = 16


class Settings(ServiceSettings):
    """What the monitor needs to run, from ``CLAVE_MONITOR_*``.

    Attributes:
        evaluation_tick_s: Seconds between two looks for work when nothing rings.
        retention_days: Days for which predictions and outcomes stay joinable; the Parquet log keeps them on.
    """

    model_config = SettingsConfigDict(env_prefix="CLAVE_MONITOR_", extra="ignore")

    evaluation_tick_s: float = Field(default=2.0, gt=0, le=60)
    retention_days: float = Field(default=90.0, gt=0)


@dataclass(frozen=True)
class Wired:
    """The monitor's parts, for its loops and for tests."""

    operations: Operations
    prediction_log: PredictionLog
    predictions: PredictionConsumer
    runs: RunConsumer
    loop: EvaluationLoop
    routers: list[APIRouter]


def wire(
    settings: Settings,
    *,
    database: Database,
    references: ReferenceSource,
    log_store: LogStore,
    access: Access,
    metrics: Metrics,
    clock: Clock | None = None,
) -> Wired:
    """Build the operations, the consumers, the loops and the routes."""
    now = clock or SystemClock()
    wake_up = WakeUp()
    ingestion = Ingestion(database, now, metrics)
    evaluation = Evaluation(database, references, now, metrics)
    operations = Operations(
        database=database,
        access=access,
        clock=now,
        ingestion=ingestion,
        evaluation=evaluation,
        reporting=Reporting(database),
        governing=Governing(database, now),
        comparison=Comparison(database),
        wake_up=wake_up,
    )
    return Wired(
        operations=operations,
        prediction_log=PredictionLog(database, log_store, now, retention=timedelta(days=settings.retention_days)),
        predictions=PredictionConsumer(ingestion, metrics, wake_up),
        runs=RunConsumer(database, now, wake_up),
        loop=EvaluationLoop(database, evaluation, metrics, wake_up, tick_s=settings.evaluation_tick_s),
        routers=[outcome_routes(operations), reading_routes(operations), governing_routes(operations)],
    )


def create_app(settings: Settings) -> FastAPI:
    """Build the monitor's application with its loops."""
    database = Database(
        settings.database_url.get_secret_value(),
        metadata,
        service="monitor",
        connections_max=settings.database_connections_max,
    )
    redis = connect_redis(settings.redis_url.get_secret_value())
    kit = open_access(settings, service="monitor", redis=redis, one_tenant=True)
    registry = peer_client(kit.minter, target="registry", url=settings.peers.registry_url)
    wired = wire(
        settings,
        database=database,
        references=RegistryReferences(RegistryClient(registry), settings.data_dir / "references"),
        log_store=open_log_store(settings.blob_url),
        access=kit.access,
        metrics=Metrics(),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with _loops(settings, kit, database, redis, wired), registry:
            yield
        await redis.aclose()
        await database.close()

    return create_service_app(
        service="monitor",
        version=VERSION,
        description="Prediction log, feedback, drift, performance, fairness, alerts, the decision to retrain.",
        routers=wired.routers,
        access=kit.access,
        verifier=kit.verifier,
        checks={"database": database.ping, "redis": _redis_check(redis), "access": kit.ready},
        lifespan=lifespan,
        body_bytes_max=settings.body_bytes_max,
    )


def _redis_check(redis: Redis) -> Check:
    async def ping() -> None:
        await redis.ping()

    return ping


def _loops(settings: Settings, kit: AccessKit, database: Database, redis: Redis, wired: Wired) -> Background:
    background = Background()
    consumer = f"{os.uname().nodename}-{settings.http_port}"  # the same after a restart: it finds its own entries

    def stream(name: str) -> StreamConsumer:
        return StreamConsumer(
            redis, streams=[name], group=_GROUP, consumer=consumer, batch_max=_ENTRIES_PER_TRANSACTION
        )

    predictions, runs = stream(PREDICTION_STREAM), stream(event_stream("trainer"))
    relay = OutboxRelay(database, redis, kit.audit_signer)
    background.add("access", partial(kit.run, background))
    background.add(OUTBOX_LOOP, partial(relay.run, background))
    background.add("predictions", partial(predictions.run, wired.predictions.handle, background, "predictions"))
    background.add("trainer_events", partial(runs.run, wired.runs.handle, background, "trainer_events"))
    background.add(LOG_LOOP, partial(wired.prediction_log.run, background))
    background.add(EVALUATION_LOOP, partial(wired.loop.run, background))
    return background
