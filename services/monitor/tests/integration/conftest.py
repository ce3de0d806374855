"""A whole monitor on real Postgres and Valkey behind its own door, beside a registry that serves one reference."""

import asyncio
import hashlib
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import httpx
import numpy as np
import pyarrow as pa
import pytest
from clave_common.access import Access, Caller, Decision
from clave_common.clock import FixedClock
from clave_common.database import Database
from clave_common.migrations import migrate
from clave_common.redis_client import connect_redis
from clave_common.service_app import create_service_app
from clave_contracts.events import PredictionRecord
from clave_contracts.registry import RegistryClient
from clave_monitor.app import Settings, wire
from clave_monitor.runtime.log_store import open_log_store
from clave_monitor.runtime.metrics import Metrics
from clave_monitor.runtime.references import RegistryReferences
from clave_monitor.storage.tables import metadata
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pyarrow.parquet import write_table
from starlette.responses import JSONResponse, Response

sys.path.insert(0, str(Path(__file__).parent))  # the tests here share `monitor_calls`
NAMES = ("tenure", "charges", "fibre")
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


class AllowAll:
    asked: ClassVar[list[tuple[str, str, str | None]]] = []

    async def visible(self, caller, action):
        return [{"tenant": None, "namespaces": ["*"], "resources": ["**"]}]

    async def decide(self, caller, action, resource, context):
        self.asked.append((action, resource.id, resource.properties.get("namespace")))
        return Decision(allow=True, reasons=(), decision_id="dec_test", policy_version="r0", engine="test")


class OneCaller:
    async def verify(self, presented):
        return Caller("user:admin", "user", "default", "api_key", 2e9)


@dataclass
class Traffic:
    """Customers of a made-up telephone company, and a model that is right about them until they change.

    Attributes:
        rng: Seeded.
    """

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def customers(self, rows, *, fibre=0.4, harm=0.0):
        """Draw (features, score, outcome, female); `harm` adds to everybody's true chance of leaving."""
        tenure = self.rng.integers(0, 73, rows).astype(float)
        has_fibre = (self.rng.random(rows) < fibre).astype(float)
        charges = np.round(20 + 60 * has_fibre + 15 * self.rng.random(rows), 2)
        chance = 1 / (1 + np.exp(-(-1.5 + 1.8 * has_fibre - 0.03 * tenure)))
        outcome = (self.rng.random(rows) < np.clip(chance + harm, 0, 1)).astype(float)
        features = np.stack([tenure, charges, has_fibre], axis=1).astype(np.float32)
        return features, chance.astype(np.float32), outcome, self.rng.integers(0, 2, rows)

    def reference(self, rows=1400):
        """Write a reference as the trainer would; bytes of Parquet."""
        features, score, label, female = self.customers(rows)
        columns = {name: features[:, i] for i, name in enumerate(NAMES)}
        table = pa.table(columns | {"score": score, "label": label, "female": female})
        sink = pa.BufferOutputStream()
        write_table(table, sink)
        return bytes(sink.getvalue())

    def records(self, rows, *, start=0, version=1, arm="live", at=NOW, per_request=5, **mix):
        """Give prediction records and the outcomes that belong to them."""
        features, score, outcome, female = self.customers(rows, **mix)
        made, outcomes = [], []
        for n, first in enumerate(range(0, rows, per_request)):
            chunk = slice(first, first + per_request)
            name = f"pred_{version}_{start + n:06d}"
            made.append(
                PredictionRecord(
                    id=name,
                    at=at + timedelta(seconds=n),
                    endpoint="churn",
                    model="churn",
                    model_version=version,
                    arm=arm,
                    principal="app:shop",
                    protocol="rest",
                    columns=list(NAMES),
                    values=features[chunk].tolist(),
                    entities={"customer_id": [f"c{start + first + i}" for i in range(len(features[chunk]))]},
                    score=score[chunk].tolist(),
                    latency_ms=4.0 + 0.01 * n,
                )
            )
            outcomes += [
                {
                    "prediction_id": name,
                    "row": i,
                    "outcome": outcome[first + i],
                    "attributes": {"female": int(female[first + i])},
                }
                for i in range(len(features[chunk]))
            ]
        return made, outcomes


def registry_app(reference, versions):
    """Serve the registry's routes that the monitor reads."""
    app = FastAPI()
    digest = hashlib.sha256(reference).hexdigest()

    @app.get("/api/registry/v1/models/{model}/versions/{version}")
    async def version(model: str, version: int) -> Response:
        if version not in versions:
            return JSONResponse({"title": "gone", "status": 404, "detail": "no such version"}, status_code=404)
        artifact = {"path": "monitoring/reference.parquet", "digest": digest, "size": len(reference)}
        signature = {
            "inputs": [],
            "outputs": [],
            "columns": list(NAMES),
            "threshold": 0.5,
        }
        return JSONResponse(
            {
                "model": model,
                "version": version,
                "status": "approved",
                "artifacts": [artifact] if versions[version] else [],
                "signature": signature,
                "manifest_digest": digest,
                "created_at": NOW.isoformat(),
                "created_by": "user:admin",
                "params": {},
                "lineage": {},
                "evaluation": None,
                "tags": {},
            }
        )

    @app.get("/api/registry/v1/blobs/{wanted}")
    async def blob(wanted: str) -> Response:
        return Response(reference, media_type="application/octet-stream")

    return app


@pytest.fixture
def asked():
    """What the policy is asked from now on: action, resource, namespace."""
    AllowAll.asked.clear()
    return AllowAll.asked


@pytest.fixture
def traffic():
    return Traffic()


@pytest.fixture
async def monitor(service_database, redis_url, tmp_path, traffic):
    """An HTTP client of a running monitor; `.parts`, `.clock`, `.redis`, `.metrics` and `.registry` stand behind it."""
    url = service_database("monitor")
    await asyncio.to_thread(migrate, url=url, package="clave_monitor", metadata=metadata)
    settings = Settings(
        http_port=1,
        database_url=url,
        redis_url=redis_url,
        data_dir=tmp_path / "data",
        secrets_dir=tmp_path,
        blob_url=f"file://{tmp_path}/blobs",
    )
    versions = {1: True, 2: True, 9: False}
    registry = httpx.ASGITransport(app=registry_app(traffic.reference(), versions))
    async with running(settings, registry) as client:
        yield client


@asynccontextmanager
async def running(settings, registry):
    database = Database(settings.database_url.get_secret_value(), metadata, service="monitor")
    redis = connect_redis(settings.redis_url.get_secret_value())
    clock, metrics = FixedClock(NOW), CollectorRegistry()
    access = Access(AllowAll())
    async with httpx.AsyncClient(transport=registry, base_url="http://registry") as peer:
        parts = wire(
            settings,
            database=database,
            references=RegistryReferences(RegistryClient(peer), settings.data_dir / "references"),
            log_store=open_log_store(settings.blob_url),
            access=access,
            metrics=Metrics(metrics),
            clock=clock,
        )
        app = create_service_app(
            service="monitor",
            version="0",
            description="",
            routers=parts.routers,
            access=access,
            verifier=OneCaller(),
            checks={},
            registry=metrics,
        )
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://monitor/api/monitor/v1") as client:
            client.parts, client.clock, client.redis, client.metrics = parts, clock, redis, metrics
            client.database, client.settings = database, settings
            client.restarted = lambda: running(settings, registry)
            yield client
    await redis.aclose()
    await database.close()
