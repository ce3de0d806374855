"""Attack 13 at a live port: how long a refusal takes does not tell an id that exists from one that does not.

Guesses come in pairs, sent at once in a random order, from loopback addresses of their own: the limiter counts failures
by address, and those of other tests stay free. Across sockets a clock finds only what a stranger could measure (a
look-up, a slow hash, a wait); that the work itself is equal is judged in `test_access_timing.py`.
"""

import asyncio
import random
import time
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from clave_common.access.api_keys import ApiKey, new_api_key, parse_api_key
from clave_testing.patience import PATIENCE_S
from clave_testing.stack import Stack

pytestmark = pytest.mark.stack
ADDRESSES, ROUNDS = 80, 12
SHARE_OFF_MAX = 0.1  # five standard deviations of a fair coin, at as many throws
REQUEST = b"GET /api/registry/v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %s\r\n\r\n"
Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def refused_after(line: Line, text: str) -> float:
    """Seconds until a guess is refused."""
    reader, writer = line
    began = time.perf_counter()
    writer.write(REQUEST % text.encode())
    head = await reader.readuntil(b"\r\n\r\n")
    taken = time.perf_counter() - began
    assert head.startswith(b"HTTP/1.1 401"), head
    length = next(int(row[15:]) for row in head.lower().split(b"\r\n") if row.startswith(b"content-length:"))
    await reader.readexactly(length)
    return taken


async def shares(url: str, known: ApiKey) -> tuple[float, int]:
    """How often an id that exists took longer than one that does not, and of how many pairs."""
    parts, order = urlsplit(url), random.Random(13)
    sources = [f"127.0.{13 + number // 200}.{1 + number % 200}" for number in range(ADDRESSES)]

    async def line(source: str) -> Line:
        return await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0))

    lines = [(await line(source), await line(source)) for source in sources]
    longer = 0
    for _ in range(ROUNDS):
        asked = []
        for pair in lines:
            texts = {True: ApiKey(known.environment, known.id, new_api_key().secret).text, False: new_api_key().text}
            first, ways = order.random() < 0.5, order.sample(pair, 2)
            tasks = {
                each: asyncio.create_task(refused_after(way, texts[each]))
                for each, way in zip((first, not first), ways, strict=True)
            }
            asked.append((tasks[True], tasks[False]))
        for exists, does_not in asked:
            longer += await exists > await does_not
    for pair in lines:
        for _, writer in pair:
            writer.close()
    return longer / (ROUNDS * ADDRESSES), ROUNDS * ADDRESSES


async def test_a_refusals_time_tells_no_stranger_which_keys_exist(stack: Stack) -> None:
    keys = f"{stack.url}/api/gateway/v1/keys"
    async with httpx.AsyncClient(headers=stack.headers, timeout=PATIENCE_S) as client:
        made = (await client.post(keys, json={"name": f"timed-{uuid4().hex[:8]}", "role": "viewer"})).json()
        known = parse_api_key(made["key"])
        assert known is not None
        base = stack.services["registry"]["http"]
        async with asyncio.timeout(PATIENCE_S):
            while (  # noqa: ASYNC110 - it is polled
                await client.get(f"{base}/api/registry/v1/models", headers={"authorization": f"Bearer {known.text}"})
            ).status_code != 200:
                await asyncio.sleep(0.05)
        share, pairs = await shares(base, known)
    assert abs(share - 0.5) < SHARE_OFF_MAX, (share, pairs)
