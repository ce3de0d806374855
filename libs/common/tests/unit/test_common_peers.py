"""How services call each other: to the address given, whatever the machine's environment says of proxies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from clave_common.access.service_tokens import ServiceTokenMinter
from clave_common.peers import peer_client


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, list[bytes]]]:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


async def test_no_proxy_of_the_environment_sees_a_services_token(
    secrets_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minter = ServiceTokenMinter.from_file("trainer", secrets_dir / "trainer.pem")
    async with listening() as (proxy, overheard), listening() as (peer, heard):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with peer_client(minter, target="registry", url=peer) as client:
            assert (await client.get("/api/registry/v1/models")).status_code == 200
    assert overheard == []
    assert b"authorization: bearer ey" in heard[0].lower()
