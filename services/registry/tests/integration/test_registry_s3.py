"""Artifacts on a real S3-compatible server: through the registry, and straight to the store by signed URLs."""

from uuid import uuid4

import httpx
import pytest
from clave_common.access import Caller
from clave_common.blobstore import bytes_of, open_blob_store
from clave_common.clock import SystemClock
from clave_registry.mlflow.artifacts import Artifacts
from clave_registry.mlflow.context import Context
from clave_registry.mlflow.transfers import Door, Transfers
from clave_registry.mlflow.values import Fields
from clave_registry.services.uploads import Uploads
from clave_testing.patience import PATIENCE_S
from clave_testing.s3 import BUCKET, s3_environment
from registry_bench import FAR_FUTURE, INSPECTOR, Bench

pytestmark = pytest.mark.integration
EVE = Caller(
    subject_id="user:eve",
    subject_type="user",
    tenant="default",
    method="api_key",
    expires_at=FAR_FUTURE,
    source_ip="127.0.0.1",
)
FOLDER = "0/run/artifacts"


async def test_files_go_to_the_store_and_come_from_it_by_signed_urls(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment().items():
        monkeypatch.setenv(name, value)
    store, clock = open_blob_store(f"s3://{BUCKET}/{uuid4().hex}"), SystemClock()
    context = Context(bench.database, store, clock, INSPECTOR, blob_bytes_max=1 << 30, direct_transfer_s=60)
    artifacts = Artifacts(context)
    transfers = Transfers(context, artifacts, Uploads(bench.database, store, clock, size_max=1 << 30))
    await artifacts.put(EVE, f"{FOLDER}/small.txt", bytes_of(b"small"))
    asked = Fields({"path": "/tmp/big.bin", "num_parts": 2})
    begun = await transfers.create(EVE, FOLDER, asked, Door("http://registry", "Bearer key"))
    parts = [b"a" * 6_000_000, b"tail"]
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        for credential, data in zip(begun["credentials"], parts, strict=True):
            assert credential["headers"] == {}
            assert (await client.put(credential["url"], content=data)).headers["etag"]
        done = Fields({"path": "/tmp/big.bin", "upload_id": begun["upload_id"]})
        assert await transfers.complete(EVE, FOLDER, done) == {}
        for name, content in (("small.txt", b"small"), ("big.bin", b"".join(parts))):
            signed = await transfers.presigned(EVE, f"{FOLDER}/{name}")
            assert signed["file_size"] == len(content)
            assert (await client.get(signed["url"])).content == content
            got = await artifacts.get(EVE, f"{FOLDER}/{name}", asked_range=None)
            assert b"".join([chunk async for chunk in got.chunks]) == content
    assert await store.parts(begun["upload_id"]) == {}
