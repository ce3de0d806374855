"""Watches the registry: a look every second, and at once when its stream says that something changed."""

import asyncio
from collections.abc import AsyncIterator

from clave_common.background import Background
from clave_common.redis_client import REDIS_AWAY
from clave_contracts.registry import API, DesiredState, ObservedState, RegistryClient
from redis.asyncio import Redis
from redis.exceptions import RedisError

from clave_inference.services.deploy import Deployment

_NOT_MODIFIED = 304
_REPORT_AGAIN_AFTER_ROUNDS = 30


class RegistryOverHttp:
    """The registry, as `Deployment` wants it."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    async def desired(self, etag: str | None) -> tuple[str, DesiredState] | None:
        """Give the desired state and its etag; None when it is still the one of `etag`.

        Raises:
            ServiceProblem: The registry does not answer.
        """
        headers = {"if-none-match": etag} if etag else {}
        response = await self._client.send("GET", f"{API}/desired", headers=headers)
        if response.status_code == _NOT_MODIFIED:
            return None
        state = DesiredState.model_validate_json(response.content)
        return response.headers.get("etag", f'"{state.revision}"'), state

    def blob(self, digest: str) -> AsyncIterator[bytes]:
        """Stream a blob."""
        return self._client.blob(digest)

    async def report(self, instance: str, state: ObservedState) -> None:
        """Tell what is loaded."""
        await self._client.report_observed(instance, state)


class RegistryWatch:
    """The loops that keep a process at the desired state."""

    def __init__(self, deployment: Deployment, *, redis: Redis, poll_s: float) -> None:
        self._deployment = deployment
        self._redis = redis
        self._poll_s = poll_s
        self._wake = asyncio.Event()

    async def follow(self, background: Background, loop_name: str) -> None:
        """Look at the desired state until cancelled; a failed look raises and is tried again with back-off."""
        rounds = 0
        while True:
            self._wake.clear()
            await self._deployment.step()
            background.healthy(loop_name)
            rounds += 1
            if rounds % _REPORT_AGAIN_AFTER_ROUNDS == 0:
                self._deployment.forget_report()
            try:
                await asyncio.wait_for(self._wake.wait(), self._poll_s)
            except TimeoutError:
                continue

    async def listen(self, background: Background, loop_name: str) -> None:
        """Wake `follow` at every event of the registry; without Redis the polling alone goes on."""
        position = "$"
        while True:
            try:
                answer = await self._redis.xread({"clave.events.registry": position}, count=100, block=1000)
            except (*REDIS_AWAY, RedisError):
                await asyncio.sleep(self._poll_s)
                continue
            background.healthy(loop_name)
            entries = _entries(answer)
            if entries:
                position = entries[-1]
                self._wake.set()


def _entries(answer: object) -> list[str]:
    """Give the positions of what was read, in either of redis-py's answer shapes."""
    if isinstance(answer, dict):
        parts = [entry for batches in answer.values() for batch in batches for entry in batch]
    elif isinstance(answer, list):
        parts = [entry for _, batch in answer for entry in batch]
    else:
        return []
    return [entry[0].decode() if isinstance(entry[0], bytes) else str(entry[0]) for entry in parts]
