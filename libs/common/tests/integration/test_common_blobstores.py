"""Every blob store keeps the same promises: a local folder, and a real S3-compatible server."""

import hashlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from clave_common.blobstore import DigestMismatch, PartStore, bytes_of, open_blob_store, read_all
from clave_common.errors import NotFound, PayloadTooLarge, Unavailable
from clave_testing.s3 import BUCKET, s3_environment

pytestmark = pytest.mark.integration
MIB = 1024 * 1024


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PartStore:
    if request.param == "folder":
        return open_blob_store(f"file://{tmp_path}/blobs")
    for name, value in s3_environment().items():
        monkeypatch.setenv(name, value)
    return open_blob_store(f"s3://{BUCKET}/{uuid4().hex}")


class SenderGone(Exception):
    """What a web framework raises when a request ends in the middle of its body."""


async def cut_after(data: bytes) -> AsyncIterator[bytes]:
    yield data
    raise SenderGone


async def everything(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_bytes_come_back_whole_in_ranges_and_are_stored_once(store: PartStore) -> None:
    data = os.urandom(12 * MIB + 17)
    digest = hashlib.sha256(data).hexdigest()
    for _ in range(2):
        ref = await store.put(bytes_of(data), digest=digest)
        assert (ref.digest, ref.size) == (digest, len(data))
    assert await store.size(digest) == len(data)
    assert await everything(store.read(digest)) == data
    assert await everything(store.read(digest, start=5, end=9 * MIB)) == data[5 : 9 * MIB]
    empty = await store.put(bytes_of(b""))
    assert await read_all(store, empty.digest) == b""
    await store.delete(digest)
    await store.delete(digest)
    assert await store.size(digest) is None
    with pytest.raises(NotFound):
        await everything(store.read(digest))


async def test_wrong_too_many_and_cut_bytes_leave_nothing_behind(store: PartStore) -> None:
    data = b"x" * (7 * MIB)
    with pytest.raises(DigestMismatch):
        await store.put(bytes_of(data), digest="0" * 64)
    with pytest.raises(PayloadTooLarge):
        await store.put(bytes_of(data), size_max=MIB)
    with pytest.raises(SenderGone):
        await store.put(cut_after(data))
    with pytest.raises(SenderGone):
        await store.put_part("up_1", 1, cut_after(data), size_max=8 * MIB)
    assert await store.size(hashlib.sha256(data).hexdigest()) is None
    assert await store.parts("up_1") == {}
    await store.drop_parts("up_1")
    assert await store.sweep(before=datetime.now(UTC) + timedelta(days=1)) == 0


async def test_parts_are_kept_replaced_and_forgotten(store: PartStore) -> None:
    await store.put_part("up_2", 2, bytes_of(b"world"), size_max=MIB)
    await store.put_part("up_2", 1, bytes_of(b"lost "), size_max=MIB)
    await store.put_part("up_2", 1, bytes_of(b"hello "), size_max=MIB)
    await store.put_part("up_3", 1, bytes_of(b"another"), size_max=MIB)
    assert await store.parts("up_2") == {1: 6, 2: 5}
    assert await everything(store.read_part("up_2", 1)) == b"hello "
    with pytest.raises(NotFound):
        await everything(store.read_part("up_2", 3))
    with pytest.raises(PayloadTooLarge):
        await store.put_part("up_2", 3, bytes_of(b"too long"), size_max=3)
    await store.drop_parts("up_2")
    assert (await store.parts("up_2"), await store.parts("up_3")) == ({}, {1: 7})


async def test_what_was_never_finished_is_swept_once_it_is_old(store: PartStore) -> None:
    await store.put_part("up_4", 1, bytes_of(b"abandoned"), size_max=MIB)
    kept = await store.put(bytes_of(b"whole"))
    assert await store.sweep(before=datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await store.sweep(before=datetime.now(UTC) + timedelta(hours=1)) == 1
    assert await store.parts("up_4") == {}
    assert await store.size(kept.digest) == 5


async def test_only_an_object_store_gives_urls_and_they_need_no_credentials(store: PartStore) -> None:
    ref = await store.put(bytes_of(b"signed"))
    read, write = await store.read_url(ref.digest, expires_s=60), await store.part_url("up_5", 1, expires_s=60)
    if read is None or write is None:
        assert (read, write) == (None, None)
        return
    async with httpx.AsyncClient() as client:
        part = await client.get(read, headers={"Range": "bytes=1-3"})
        assert (part.status_code, part.content) == (206, b"ign")
        put = await client.put(write, content=b"a part")
        assert put.headers["etag"]
    assert await everything(store.read_part("up_5", 1)) == b"a part"


async def test_an_object_store_that_is_away_is_said_to_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**s3_environment(), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    away = open_blob_store(f"s3://{BUCKET}/away")
    with pytest.raises(Unavailable):
        await away.size("0" * 64)
