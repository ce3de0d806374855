"""A whole feature store on real Postgres, Valkey and disk, behind its own HTTP door."""

from contextlib import asynccontextmanager

import httpx
import pytest
from clave_common.access import Access, Caller, Decision
from clave_common.background import Background
from clave_common.migrations import migrate_async
from clave_features.app import build_app, build_parts
from clave_features.settings import Settings
from clave_features.storage.tables import metadata
from prometheus_client import CollectorRegistry


class AllowAll:
    async def visible(self, caller, action):
        return [{"tenant": None, "namespaces": ["*"], "resources": ["**"]}]

    async def decide(self, caller, action, resource, context):
        return Decision(allow=True, reasons=(), decision_id="dec_test", policy_version="r0", engine="test")


class OneCaller:
    async def verify(self, presented):
        return Caller("user:admin", "user", "default", "api_key", 2e9)


@pytest.fixture
async def feature_store(service_database, redis_url, tmp_path):
    """An HTTP client of a running feature store; `.parts` gives what is behind it, `.restarted()` another process."""
    url = service_database("features")
    await migrate_async(url=url, package="clave_features", metadata=metadata)
    settings = Settings(
        http_port=1,
        database_url=url,
        redis_url=redis_url,
        data_dir=tmp_path / "data",
        secrets_dir=tmp_path,
        blob_url=f"file://{tmp_path}/blobs",
        upload_bytes_max=2_000_000,
    )
    async with running(settings) as client:
        yield client


@asynccontextmanager
async def running(settings, decisions=None, verifier=None):
    parts = build_parts(settings)
    app = build_app(
        parts,
        access=Access(decisions or AllowAll()),
        verifier=verifier or OneCaller(),
        checks={},
        background=Background(),
        registry=CollectorRegistry(),
    )
    async with app.router.lifespan_context(app):
        await parts.catalogues.load()
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://features") as client:
            client.parts = parts
            client.restarted = lambda **parts: running(settings, **parts)
            yield client
