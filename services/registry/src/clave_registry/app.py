"""The registry's composition root: reads the settings once and wires everything."""

import hashlib
import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from clave_common.access import Access
from clave_common.access.wiring import PEPPER_FILE, AccessKit, open_access
from clave_common.background import Background
from clave_common.blobstore import PartStore, open_blob_store
from clave_common.clock import Clock, SystemClock
from clave_common.database import Database
from clave_common.outbox import LOOP_NAME as OUTBOX_LOOP
from clave_common.outbox import OutboxRelay
from clave_common.peers import peer_client
from clave_common.redis_client import connect_redis
from clave_common.service_app import create_service_app
from clave_common.settings import ServiceSettings
from clave_common.streams import StreamConsumer
from clave_contracts.events import event_stream
from clave_contracts.features import FeaturesClient
from clave_contracts.monitor import MonitorClient
from clave_contracts.registry import API
from fastapi import APIRouter, FastAPI
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from redis.asyncio import Redis

from clave_registry.analysis import MonitorAnalysis
from clave_registry.api.blobs import blob_routes
from clave_registry.api.cards import card_routes
from clave_registry.api.endpoints import endpoint_routes
from clave_registry.api.examples import with_examples
from clave_registry.api.holds import hold_routes
from clave_registry.api.models import model_routes
from clave_registry.api.operations import Operations
from clave_registry.api.signatures import signature_routes
from clave_registry.api.uploads import UPLOADS, upload_routes
from clave_registry.api.versions import version_routes
from clave_registry.api.webhooks import webhook_routes
from clave_registry.controller import LOOP_NAME as ROLLOUT_LOOP
from clave_registry.controller import RolloutController
from clave_registry.domain.version import Quorum
from clave_registry.domain.webhook import AllowList
from clave_registry.membership import FeaturesMembership
from clave_registry.mlflow.api import ARTIFACTS, mlflow_routes
from clave_registry.mlflow.context import Context
from clave_registry.mlflow.errors import MlflowErrors
from clave_registry.mlflow.transfers import PART
from clave_registry.runtime.model_inspector import Limits, ModelInspector
from clave_registry.runtime.trusted_keys import TrustedKeys
from clave_registry.runtime.webhook_sender import WebhookSender
from clave_registry.services.approvals import Approvals
from clave_registry.services.blobs import Blobs
from clave_registry.services.cards import Cards
from clave_registry.services.collection import LOOP_NAME as COLLECTION_LOOP
from clave_registry.services.collection import Collection, Retention
from clave_registry.services.desired import DesiredStates
from clave_registry.services.endpoints import Endpoints
from clave_registry.services.holds import Holds
from clave_registry.services.lineage import Lineages, MembershipSource
from clave_registry.services.models import Models
from clave_registry.services.rollouts import AnalysisSource, Rollouts
from clave_registry.services.signatures import ReleaseRules, Signatures
from clave_registry.services.uploads import Uploads
from clave_registry.services.versions import Versions
from clave_registry.services.webhook_deliveries import CONSUMER_NAME as WEBHOOK_EVENTS
from clave_registry.services.webhook_deliveries import LOOP_NAME as WEBHOOKS_LOOP
from clave_registry.services.webhook_deliveries import WebhookDeliveries
from clave_registry.services.webhooks import Webhooks
from clave_registry.storage.mlflow.tables import metadata

VERSION = "0.1.0"
_MIB = 1024 * 1024


class Settings(ServiceSettings):
    """What the registry needs to run, from ``CLAVE_REGISTRY_*``.

    Attributes:
        blob_bytes_max: Largest blob.
        model_bytes_max: Largest ONNX graph that is looked into.
        inspection_memory_bytes: Address space of the sandbox that looks.
        inspection_s_max: Seconds it may take.
        rollout_tick_s: Seconds between two searches for rollouts that are due.
        rollout_look_s: Seconds between two looks at a rollout's analysis.
        approval_valid_s: Seconds for which a person's approval counts.
        approvals_limited: People who must approve a model of risk class ``limited`` outside of Development.
        approvals_high: The same for ``high``.
        direct_transfer_s: Seconds for which URLs straight to the object store are good; 0 (off) where clients do not
            reach it.
        blob_retention_s: Seconds for which a blob that nothing names is kept.
        version_retention_s: Seconds for which the files of a deleted version are kept.
        collection_every_s: Seconds between two collections.
        webhook_hosts: Hosts that webhooks may go to, comma-separated: names, ``*.suffix``, addresses; none by default.
        signing_keys_dir: Folder of the public keys (PEM) whose signatures over models count.
        webhook_networks: Networks that are not public and may be reached by them, comma-separated.
    """

    model_config = SettingsConfigDict(env_prefix="CLAVE_REGISTRY_", extra="ignore")

    blob_bytes_max: int = Field(default=8 * 1024 * _MIB, ge=_MIB)
    model_bytes_max: int = Field(default=512 * _MIB, ge=_MIB)
    inspection_memory_bytes: int = Field(default=3 * 1024 * _MIB, ge=512 * _MIB)
    inspection_s_max: float = Field(default=120.0, gt=0)
    rollout_tick_s: float = Field(default=0.5, gt=0, le=60)
    rollout_look_s: float = Field(default=2.0, ge=0.2, le=3600)
    approval_valid_s: float = Field(default=14 * 86_400.0, gt=0)
    approvals_limited: int = Field(default=1, ge=0, le=9)
    approvals_high: int = Field(default=2, ge=0, le=9)
    direct_transfer_s: float = Field(default=0.0, ge=0, le=86_400)
    blob_retention_s: float = Field(default=7 * 86_400.0, ge=3600)
    version_retention_s: float = Field(default=30 * 86_400.0, ge=3600)
    collection_every_s: float = Field(default=3600.0, ge=1)
    webhook_hosts: str = ""
    webhook_networks: str = ""
    signing_keys_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Wired:
    """The registry's parts, for its loops and for tests."""

    operations: Operations
    controller: RolloutController
    deliveries: WebhookDeliveries
    routers: list[APIRouter]


def wire(
    settings: Settings,
    *,
    database: Database,
    store: PartStore,
    access: Access,
    source: AnalysisSource,
    membership: MembershipSource,
    webhook_key: bytes,
    inspector: ModelInspector | None = None,
    clock: Clock | None = None,
) -> Wired:
    """Build the operations, the rollout controller and the routes."""
    now = clock or SystemClock()
    inspector = inspector or ModelInspector(_limits(settings))
    allowed = AllowList.of(settings.webhook_hosts, settings.webhook_networks)
    quorum = Quorum(
        valid_for_s=settings.approval_valid_s,
        people={"minimal": 0, "limited": settings.approvals_limited, "high": settings.approvals_high},
    )
    trusted = TrustedKeys.from_folder(settings.signing_keys_dir)
    release = ReleaseRules(quorum, trusted)
    rollouts = Rollouts(database, access, now, source=source, look_interval_s=settings.rollout_look_s, release=release)
    uploads = Uploads(database, store, now, size_max=settings.blob_bytes_max)
    mlflow = Context(
        database,
        store,
        now,
        inspector,
        blob_bytes_max=settings.blob_bytes_max,
        direct_transfer_s=settings.direct_transfer_s,
        public_url=settings.peers.public_url,
    )
    operations = Operations(
        database=database,
        blobs=Blobs(database, store, now, size_max=settings.blob_bytes_max),
        uploads=uploads,
        holds=Holds(database, now),
        models=Models(database, now),
        versions=Versions(database, store, inspector, now),
        approvals=Approvals(database, access, now, quorum=quorum),
        cards=Cards(database, now),
        lineage=Lineages(database, membership=membership),
        endpoints=Endpoints(database, access, now, release=release),
        rollouts=rollouts,
        desired=DesiredStates(database, trusted=trusted),
        signatures=Signatures(database, now, trusted=trusted),
        webhooks=Webhooks(database, now, key=webhook_key, allowed=allowed),
    )
    routers = [
        blob_routes(operations),
        model_routes(operations),
        version_routes(operations),
        card_routes(operations),
        signature_routes(operations),
        endpoint_routes(operations),
        webhook_routes(operations),
        upload_routes(operations),
        hold_routes(operations),
        mlflow_routes(mlflow, uploads),
    ]
    controller = RolloutController(database, rollouts, tick_s=settings.rollout_tick_s)
    deliveries = WebhookDeliveries(database, now, WebhookSender(allowed), key=webhook_key)
    return Wired(operations, controller, deliveries, with_examples(routers))


def _limits(settings: Settings) -> Limits:
    return Limits(
        model_bytes=settings.model_bytes_max,
        memory_bytes=settings.inspection_memory_bytes,
        wall_s=settings.inspection_s_max,
    )


def create_app(settings: Settings) -> FastAPI:
    """Build the registry's application with its loops."""
    database = Database(
        settings.database_url.get_secret_value(),
        metadata,
        service="registry",
        connections_max=settings.database_connections_max,
    )
    redis = connect_redis(settings.redis_url.get_secret_value())
    kit = open_access(settings, service="registry", redis=redis)
    monitor = peer_client(kit.minter, target="monitor", url=settings.peers.monitor_url)
    features = peer_client(kit.minter, target="features", url=settings.peers.features_url, timeout_s=60.0)
    store = open_blob_store(settings.blob_url)
    wired = wire(
        settings,
        database=database,
        store=store,
        access=kit.access,
        source=MonitorAnalysis(MonitorClient(monitor)),
        membership=FeaturesMembership(FeaturesClient(features)),
        webhook_key=_webhook_key(settings),
    )

    retention = Retention(blobs_s=settings.blob_retention_s, versions_s=settings.version_retention_s)
    collection = Collection(database, store, SystemClock(), retention=retention, uploads=wired.operations.uploads)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        background = _loops(kit, database, redis, wired, consumer=f"{os.uname().nodename}-{settings.http_port}")
        every_s = settings.collection_every_s
        background.add(COLLECTION_LOOP, lambda: collection.run(background, every_s=every_s))
        async with background, monitor, features:
            yield
        await redis.aclose()
        await database.close()

    app = create_service_app(
        service="registry",
        version=VERSION,
        description="Models, versions, artifacts, lineage, approvals, cards, endpoints, rollouts.",
        routers=wired.routers,
        access=kit.access,
        verifier=kit.verifier,
        checks={"database": database.ping, "access": kit.ready},
        lifespan=lifespan,
        body_bytes_max=settings.body_bytes_max,
        streaming_prefixes=(f"{API}/blobs/", f"{UPLOADS}/", f"{ARTIFACTS}/", f"{PART}/"),
    )
    app.add_middleware(MlflowErrors)
    return app


def _webhook_key(settings: ServiceSettings) -> bytes:
    """Derive the key of all webhook secrets from the installation's pepper."""
    pepper = (settings.secrets_dir / PEPPER_FILE).read_bytes().strip()
    return hmac.new(pepper, b"clave registry webhooks 1", hashlib.sha256).digest()


def _loops(kit: AccessKit, database: Database, redis: Redis, wired: Wired, *, consumer: str) -> Background:
    background = Background()
    relay = OutboxRelay(database, redis, kit.audit_signer)
    events = StreamConsumer(redis, streams=[event_stream("registry")], group="registry-webhooks", consumer=consumer)
    background.add("access", lambda: kit.run(background))
    background.add(OUTBOX_LOOP, lambda: relay.run(background))
    background.add(ROLLOUT_LOOP, lambda: wired.controller.run(background))
    background.add(WEBHOOK_EVENTS, lambda: events.run(wired.deliveries.handle, background, WEBHOOK_EVENTS))
    background.add(WEBHOOKS_LOOP, lambda: wired.deliveries.run(background))
    return background
