"""The composition root: the only place that reads settings and knows every part."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from clave_common.access.enforcement import Access
from clave_common.access.verification import CredentialVerifier
from clave_common.access.wiring import open_access
from clave_common.audit_signatures import AuditSigner
from clave_common.background import Background
from clave_common.blobstore import BlobStore, open_blob_store
from clave_common.clock import Clock, SystemClock
from clave_common.database import Database
from clave_common.outbox import LOOP_NAME as OUTBOX_LOOP
from clave_common.outbox import OutboxRelay
from clave_common.readiness import Check
from clave_common.redis_client import connect_redis
from clave_common.service_app import create_service_app
from clave_contracts.features import API
from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry
from redis.asyncio import Redis

from clave_features import __version__
from clave_features.api.definitions import definitions_router
from clave_features.api.feast import feast_router
from clave_features.api.ingestion import ingestion_router
from clave_features.api.online import online_router
from clave_features.api.training_set_contents import training_set_contents_router
from clave_features.api.training_sets import training_sets_router
from clave_features.domain.errors import ScratchUnwritable
from clave_features.runtime.engine import Engine
from clave_features.runtime.history import HistoryFiles
from clave_features.runtime.online_store import OnlineStore
from clave_features.services import catalogue, ingestion
from clave_features.services.catalogue import Catalogues
from clave_features.services.ingestion import Ingestion
from clave_features.services.online import OnlineReads
from clave_features.services.training_sets import TrainingSets
from clave_features.settings import Settings
from clave_features.storage.tables import metadata

SERVICE = "features"
DESCRIPTION = (
    "Entities, feature views and feature services; validated ingestion into an append-only history and an online "
    "store; point-in-time-correct training sets. Also speaks the shape of Feast's feature server."
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the service holds."""

    settings: Settings
    database: Database
    redis: Redis
    blobs: BlobStore
    scratch: Path
    catalogues: Catalogues
    ingestion: Ingestion
    reads: OnlineReads
    training_sets: TrainingSets
    store: OnlineStore


def build_parts(settings: Settings, *, clock: Clock | None = None) -> Parts:
    """Put the operations together."""
    clock = clock or SystemClock()
    database = Database(
        settings.database_url.get_secret_value(),
        metadata,
        service=SERVICE,
        connections_max=settings.database_connections_max,
    )
    redis = connect_redis(settings.redis_url.get_secret_value())
    blobs = open_blob_store(settings.blob_url)
    scratch = settings.data_dir / "scratch"
    engine = Engine(scratch, threads=settings.engine_threads, memory_limit_mb=settings.memory_limit_mb)
    files = HistoryFiles(blobs, settings.data_dir / "history")
    store = OnlineStore(redis, grace=timedelta(days=settings.online_grace_days))
    catalogues = Catalogues(database)
    taking_in = Ingestion(
        database=database,
        catalogues=catalogues,
        engine=engine,
        blobs=blobs,
        files=files,
        online=store,
        clock=clock,
        future_tolerance=timedelta(seconds=settings.future_tolerance_s),
        quarantine_rows_max=settings.quarantine_rows_max,
    )
    reads = OnlineReads(catalogues=catalogues, store=store, clock=clock, rows_max=settings.online_rows_max)
    training_sets = TrainingSets(
        database=database, catalogues=catalogues, engine=engine, blobs=blobs, files=files, clock=clock
    )
    return Parts(settings, database, redis, blobs, scratch, catalogues, taking_in, reads, training_sets, store)


def build_app(
    parts: Parts,
    *,
    access: Access,
    verifier: CredentialVerifier,
    checks: dict[str, Check],
    background: Background,
    signer: AuditSigner | None = None,
    registry: CollectorRegistry = REGISTRY,
) -> FastAPI:
    """Put routes and loops around the operations."""
    settings = parts.settings
    background.add(OUTBOX_LOOP, partial(OutboxRelay(parts.database, parts.redis, signer).run, background))
    background.add(catalogue.LOOP_NAME, partial(parts.catalogues.run, background))
    background.add(ingestion.LOOP_NAME, partial(parts.ingestion.follow, background))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(_clear, parts.scratch)
        async with background:
            yield
        await parts.database.close()
        await parts.redis.aclose()

    return create_service_app(
        service=SERVICE,
        version=__version__,
        description=DESCRIPTION,
        routers=[
            definitions_router(parts.catalogues),
            ingestion_router(
                parts.ingestion,
                parts.catalogues,
                parts.database,
                scratch=parts.scratch,
                bytes_max=settings.upload_bytes_max,
            ),
            online_router(parts.reads, parts.catalogues),
            training_sets_router(parts.training_sets, parts.catalogues, parts.database),
            training_set_contents_router(parts.training_sets, parts.catalogues, parts.blobs),
            feast_router(parts.reads, parts.ingestion, parts.catalogues, scratch=parts.scratch),
        ],
        access=access,
        verifier=verifier,
        checks={
            "database": parts.database.ping,
            "redis": parts.store.ping,
            "definitions": parts.catalogues.ready,
            "data_dir": partial(_require_writable, parts.scratch),
            **checks,
        },
        lifespan=lifespan,
        body_bytes_max=settings.body_bytes_max,
        streaming_prefixes=[f"{API}/views/"],
        registry=registry,
    )


def _clear(scratch: Path) -> None:
    """Start with an empty scratch folder; one that cannot be made shows in readiness and in every ingest."""
    shutil.rmtree(scratch, ignore_errors=True)
    with suppress(OSError):
        scratch.mkdir(parents=True, exist_ok=True)


async def _require_writable(scratch: Path) -> None:
    if not await asyncio.to_thread(os.access, scratch, os.W_OK):
        raise ScratchUnwritable(f"{scratch.parent} cannot be written; free space or make it writable.")


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the service as it runs."""
    settings = settings or Settings()
    parts = build_parts(settings)
    kit = open_access(settings, service=SERVICE, redis=parts.redis, one_tenant=True)
    background = Background()
    background.add("access", partial(kit.run, background))
    return build_app(
        parts,
        access=kit.access,
        verifier=kit.verifier,
        checks={"access": kit.ready},
        background=background,
        signer=kit.audit_signer,
    )
