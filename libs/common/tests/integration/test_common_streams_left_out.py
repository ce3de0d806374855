"""An entry that no database can hold does not stop the entries behind it."""

import asyncio
from collections.abc import Sequence

import pytest
from clave_common.background import Background
from clave_common.errors import InvalidArgument
from clave_common.redis_client import connect_redis
from clave_common.streams import Entry, StreamConsumer
from clave_testing.patience import PATIENCE_S

pytestmark = pytest.mark.integration


async def test_an_entry_that_cannot_be_stored_is_left_out_and_the_others_are_handled(redis_url: str) -> None:
    redis = connect_redis(redis_url)
    names = ["a", "b", "bad", "c", "last"]
    for name in names:
        await redis.xadd("s", {"id": name, "body": b"{}"})
    handled: list[str] = []
    done = asyncio.Event()

    async def store(entries: Sequence[Entry]) -> None:
        if any(entry.id == "bad" for entry in entries):
            raise InvalidArgument("A value cannot be stored.", code="value_not_storable")
        handled.extend(entry.id for entry in entries)
        if "last" in handled:
            done.set()

    consumer = StreamConsumer(redis, streams=["s"], group="g", consumer="c", block_ms=50)
    running = asyncio.create_task(consumer.run(store, Background(), "loop"))
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
        while (await redis.xpending("s", "g"))["pending"]:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)
    running.cancel()
    assert handled == ["a", "b", "c", "last"]
    await redis.aclose()
