"""Composition root: the settings, and everything they wire together."""

import asyncio
import gc
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from clave_common.access.wiring import AccessKit, open_access, policy_engine
from clave_common.background import Background
from clave_common.errors import ClaveError, Unavailable
from clave_common.logs import get_logger
from clave_common.mutual_tls import MutualTls
from clave_common.peers import peer_client
from clave_common.redis_client import connect_redis
from clave_common.service_app import create_service_app
from clave_contracts.features import FeaturesClient
from clave_contracts.registry import RegistryClient
from fastapi import FastAPI
from redis.asyncio import Redis

from clave_inference import __version__
from clave_inference.api import protocol_routes
from clave_inference.api_description import describe_everything
from clave_inference.hot_route import HotRoute
from clave_inference.lane import Lane, lane_for
from clave_inference.metrics import Gauges, PredictionMetrics
from clave_inference.port_registry import PortRegistry
from clave_inference.rpc import ProtocolServer
from clave_inference.runtime.batcher import Batcher
from clave_inference.runtime.row_ledger import RowLedger
from clave_inference.runtime.shadow_runner import ShadowRunner
from clave_inference.services.access_log import AccessLog
from clave_inference.services.admissions import Admissions, SharedLimits
from clave_inference.services.deploy import Deployment
from clave_inference.services.describe import Describe
from clave_inference.services.explain import Explanations
from clave_inference.services.explainer import Explainer
from clave_inference.services.feature_requests import OnlineFeatures
from clave_inference.services.policy_outage import OutageEngine
from clave_inference.services.predict import Predictions, PredictLimits
from clave_inference.services.prediction_log import PredictionLog, PredictionStream
from clave_inference.services.registry_watch import RegistryOverHttp, RegistryWatch
from clave_inference.settings import Settings
from clave_inference.storage.artifact_cache import ArtifactCache
from clave_inference.storage.journal import Journal
from clave_inference.storage.metrics_board import MetricsBoard
from clave_inference.storage.spool import Spool

SERVICE = "inference"
_log = get_logger(__name__)
_FORGET_CHECK_S = 0.2
_POST_S = 1.0
_GONE_LOOK_S = 5.0
_DRAIN_LOOK_S = 0.01
_START_LOOK_S = 0.05
_START_S_MAX = 30.0
_NEW_OBJECTS_BEFORE_COLLECTION = 10_000


@dataclass(slots=True)
class Parts:
    """What one process consists of."""

    settings: Settings
    redis: Redis
    kit: AccessKit
    deployment: Deployment
    predictions: Predictions
    admissions: Admissions
    describe: Describe
    explanations: Explanations
    log: PredictionLog
    executor: ThreadPoolExecutor
    watch: RegistryWatch
    metrics: PredictionMetrics
    board: MetricsBoard | None = None
    registry: PortRegistry | None = None
    draining: bool = False

    def ready(self) -> bool:
        """Whether every desired version is loaded and this process is not about to end."""
        return not self.draining and next(self.deployment.table.missing(), None) is None

    def begin_draining(self) -> None:
        """Be not ready from now on; what arrives all the same is answered."""
        self.draining = True


def build(settings: Settings, *, worker: int = 0) -> tuple[FastAPI, type[Lane], Callable[[], None]]:
    """Wire a process.

    Returns:
        Its application, the protocol class that uvicorn should serve it with, and what to call when it is to end.
    """
    board = None
    if settings.workers > 1:
        board = MetricsBoard(settings.data_dir / "metrics", worker=worker, run=os.getppid())
    metrics = PredictionMetrics()
    registry = PortRegistry(metrics, board)
    parts = _parts(settings, metrics, worker)
    parts.board, parts.registry = board, registry
    app = create_service_app(
        service=SERVICE,
        version=__version__,
        description="Open Inference Protocol v2: predictions from the versions that the registry desires.",
        routers=[protocol_routes(parts.describe, parts.explanations)],
        access=parts.kit.access,
        verifier=parts.kit.verifier,
        checks={"models": partial(_require_models, parts), "access": parts.kit.ready},
        lifespan=partial(_lifespan, parts),
        body_bytes_max=settings.body_bytes_max,
        registry=registry,
    )
    describe_everything(app)
    app.add_middleware(HotRoute, predictions=lambda: parts.predictions, body_bytes_max=settings.body_bytes_max)
    return app, lane_for(parts.predictions), parts.begin_draining


def _parts(settings: Settings, metrics: PredictionMetrics, worker: int) -> Parts:
    redis = connect_redis(settings.redis_url.get_secret_value())
    engine = policy_engine(settings.peers)
    kit = open_access(
        settings,
        service=SERVICE,
        redis=redis,
        engine=OutageEngine(engine) if settings.peers.opa_url else engine,
    )
    cache = ArtifactCache(settings.data_dir / "artifacts" / f"worker-{worker}")
    deployment = _deployment(settings, kit, cache, worker)
    executor = ThreadPoolExecutor(1, thread_name_prefix="model")
    batcher = Batcher(
        rows_per_run_max=settings.rows_per_run_max,
        queued_rows_max=settings.queued_rows_max,
        inline_us_max=settings.inline_us_max,
        executor=executor,
        on_batch=metrics.batches.add,
    )
    log = _prediction_log(settings, redis, metrics, worker)
    admissions = _admissions(settings, kit, redis, deployment)
    deployment.on_switch = admissions.forget
    explainer = Explainer(
        deployment=deployment,
        cache=cache,
        executor=ThreadPoolExecutor(1, thread_name_prefix="explain"),
        rows_max=settings.explained_rows_max,
        waiting_rows_max=settings.explained_rows_waiting_max,
    )
    shadows = ShadowRunner(
        rows_per_run_max=settings.rows_per_run_max,
        queued_rows_max=settings.shadow_rows_waiting_max,
        executor=ThreadPoolExecutor(1, thread_name_prefix="shadow"),
    )
    features = OnlineFeatures(
        FeaturesClient(peer_client(kit.minter, target="features", url=settings.peers.features_url, timeout_s=2.0))
    )
    predictions = Predictions(
        table=lambda: deployment.table,
        admissions=admissions,
        batcher=batcher,
        log=log,
        metrics=metrics,
        features=features,
        explainer=explainer,
        shadows=shadows,
        access_log=AccessLog(every=settings.access_log_every),
        limits=PredictLimits(rows_max=settings.rows_max, timeout_s=settings.timeout_s),
    )
    metrics.gauges = _gauges(batcher, log, deployment)
    return Parts(
        settings,
        redis,
        kit,
        deployment,
        predictions,
        admissions,
        Describe(lambda: deployment.table, metrics),
        Explanations(
            deployment=deployment,
            explainer=explainer,
            admissions=admissions,
            features=features,
            rows_max=settings.explained_rows_max,
        ),
        log,
        executor,
        RegistryWatch(deployment, redis=redis, poll_s=settings.poll_s),
        metrics,
    )


def _deployment(settings: Settings, kit: AccessKit, cache: ArtifactCache, worker: int) -> Deployment:
    return Deployment(
        registry=RegistryOverHttp(
            RegistryClient(peer_client(kit.minter, target="registry", url=settings.peers.registry_url))
        ),
        cache=cache,
        instance=f"{socket.gethostname()}-{settings.http_port}-{worker}",
    )


def _prediction_log(settings: Settings, redis: Redis, metrics: PredictionMetrics, worker: int) -> PredictionLog:
    return PredictionLog(
        stream=PredictionStream(redis, entries_max=settings.stream_entries_max),
        spool=Spool(settings.data_dir / "spool" / f"predictions-{worker}.log", bytes_max=settings.spool_bytes_max),
        journal=Journal(settings.data_dir / "spool" / f"predictions-{worker}.journal"),
        metrics=metrics,
        flush_after_s=settings.log_flush_s,
        buffered_max=settings.log_buffered_max,
    )


def _admissions(settings: Settings, kit: AccessKit, redis: Redis, deployment: Deployment) -> Admissions:
    return Admissions(
        verifier=kit.verifier,
        access=kit.access,
        ledger=RowLedger(redis, processes=settings.workers * settings.replicas),
        table=lambda: deployment.table,
        limits=SharedLimits(
            settings.key_rows_per_minute, settings.model_rows_per_minute, settings.tenant_rows_per_minute
        ),
    )


def _gauges(batcher: Batcher, log: PredictionLog, deployment: Deployment) -> Gauges:
    return Gauges(
        queued_rows=lambda: batcher.queued_rows,
        log_waiting=lambda: log.waiting,
        log_counts=lambda: (log.logged, log.spooled, log.dropped),
        versions=lambda: [(seen.model, seen.version, seen.state) for seen in deployment.observed().versions],
    )


async def _require_models(parts: Parts) -> None:
    if parts.draining:
        raise Unavailable("the process is about to end")
    missing = list(parts.deployment.table.missing())
    if missing:
        raise Unavailable("; ".join(missing[:5]))


@asynccontextmanager
async def _lifespan(parts: Parts, _app: FastAPI) -> AsyncIterator[None]:
    await _restore_access(parts)
    await parts.deployment.start_from_disk()
    background = Background()
    background.add("access", partial(parts.kit.run, background))
    background.add("registry", partial(parts.watch.follow, background, "registry"))
    background.add("registry_events", partial(parts.watch.listen, background, "registry_events"))
    background.add("prediction_log", partial(parts.log.run, background, "prediction_log"))
    background.add("revocations", partial(_forget_on_change, parts))
    background.add("series", partial(_forget_gone_series, parts))
    if parts.board is not None and parts.registry is not None:
        background.add("metrics", partial(_post_metrics, parts.registry, parts.board))
    async with background:
        if parts.settings.workers > 1:
            await _wait_until_ready(parts)
        rpc = _grpc_server(parts)
        _leave_the_start_to_itself()
        yield
        parts.begin_draining()
        if rpc is not None:
            await rpc.stop(parts.settings.shutdown_grace_s)
        await _finish_in_flight(parts)
    await parts.log.close()
    parts.executor.shutdown(wait=False)
    await parts.redis.aclose()


def _leave_the_start_to_itself() -> None:
    """Keep what stands after the start out of garbage collection; requests leave few objects behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS_BEFORE_COLLECTION)


async def _restore_access(parts: Parts) -> None:
    """Take the last good keys and policy before the first request; the loop tries again where this fails."""
    try:
        await parts.kit.keeper.restore()
    except ClaveError as error:
        _log.warning("access_snapshot_not_restored", code=error.code, detail=error.detail)


async def _wait_until_ready(parts: Parts) -> None:
    """Let a worker join the port when it can answer; its siblings answer until then."""
    waits = int(_START_S_MAX / _START_LOOK_S)
    for _ in range(waits):
        if parts.ready() and parts.kit.snapshot() is not None:
            return
        await asyncio.sleep(_START_LOOK_S)


async def _finish_in_flight(parts: Parts) -> None:
    waits = int(parts.settings.shutdown_grace_s / _DRAIN_LOOK_S)
    for _ in range(waits):
        if not parts.predictions.in_flight:
            return
        await asyncio.sleep(_DRAIN_LOOK_S)


async def _forget_on_change(parts: Parts) -> None:
    """Drop remembered admissions as soon as keys or policy changed."""
    revision: int | None = None
    while True:
        snapshot = parts.kit.snapshot()
        current = None if snapshot is None else snapshot.revision
        if current != revision:
            revision = current
            parts.admissions.forget()
        await asyncio.sleep(_FORGET_CHECK_S)


async def _post_metrics(registry: PortRegistry, board: MetricsBoard) -> None:
    """Let the other processes of the port know this one's figures."""
    while True:
        board.post(registry.counts())
        await asyncio.sleep(_POST_S)


async def _forget_gone_series(parts: Parts) -> None:
    """Free the metric series of versions that are served no more."""
    while True:
        parts.metrics.forget_gone(parts.deployment.table.countable(), time.time())
        await asyncio.sleep(_GONE_LOOK_S)


def _grpc_server(parts: Parts) -> ProtocolServer | None:
    settings = parts.settings
    if not settings.grpc_port:
        return None
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    server = ProtocolServer(
        loop=asyncio.get_running_loop(),
        predictions=parts.predictions,
        describe=parts.describe,
        verifier=parts.kit.verifier,
        access=parts.kit.access,
        ready=parts.ready,
        message_bytes_max=settings.body_bytes_max,
    )
    server.start(f"{settings.http_host}:{settings.grpc_port}", MutualTls.serving(settings))
    return server
