"""Keeps a service's access snapshot fresh: woken by the gateway's events, polling once a second besides.

A revoked key is refused everywhere within two seconds: at once when Redis carries the gateway's event, by the next
poll when it does not. A snapshot whose revision goes back is refused, so nobody can replay an old one. How old it is
counts from when the gateway was last heard, over restarts of the service too.
"""

import asyncio
import time
from collections.abc import Callable

import httpx
from clave_contracts.events import event_stream
from joserfc.jwk import KeySet
from redis.asyncio import Redis

from clave_common.access.engine import PolicyEngine
from clave_common.access.snapshot import (
    Snapshot,
    SnapshotFile,
    SnapshotRejected,
    SnapshotSource,
    decode_snapshot,
    no_snapshot,
)
from clave_common.background import Background
from clave_common.errors import ClaveError, InvalidArgument, Unavailable
from clave_common.logs import get_logger
from clave_common.redis_client import REDIS_AWAY

LOOP_NAME = "access_snapshot"
_POLL_S = 1.0
_OUT_OF_TURN_S = 0.2
_CONTACT_NOTED_S = 5.0
_PATH = "/api/gateway/v1/snapshot"
_log = get_logger(__name__)


class GatewaySource:
    """Fetches snapshots from the gateway's API with this service's own token."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def fetch(self, revision: int | None) -> bytes | None:
        """Return the signed snapshot, or None when the given revision is still the newest.

        Raises:
            Unavailable: The gateway does not answer or refuses.
        """
        headers = {"if-none-match": f'"{revision}"'} if revision is not None else {}
        try:
            response = await self._http.get(_PATH, headers=headers)
        except httpx.HTTPError as error:
            raise Unavailable("The gateway does not answer.", code="gateway_unavailable") from error
        if response.status_code == httpx.codes.NOT_MODIFIED:
            return None
        if response.status_code != httpx.codes.OK:
            raise Unavailable(
                f"The gateway refused the snapshot with status {response.status_code}.", code="gateway_unavailable"
            )
        return response.content


class SnapshotKeeper:
    """Holds the snapshot in force and replaces it when a newer one comes."""

    def __init__(
        self,
        source: SnapshotSource,
        engine: PolicyEngine,
        *,
        file: SnapshotFile,
        keys: KeySet,
        redis: Redis | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._engine = engine
        self._file = file
        self._keys = keys
        self._redis = redis
        self._now = now
        self._snapshot: Snapshot | None = None
        self._policy: str | None = None
        self._contact_at = now()
        self._noted_at = self._contact_at
        self._failing: str | None = None
        self._seen: bytes | str | None = None
        self._asked_at = now() - _OUT_OF_TURN_S
        self._soon: asyncio.Task[None] | None = None

    def current(self) -> Snapshot | None:
        """Return the snapshot in force."""
        return self._snapshot

    def age_s(self) -> float:
        """Seconds since the source last answered."""
        return self._now() - self._contact_at

    async def ready(self) -> None:
        """Raise Unavailable while there is nothing to decide by."""
        if self._snapshot is None:
            raise no_snapshot()

    async def restore(self) -> None:
        """Take the last-known-good snapshot from disk, if there is one."""
        kept = self._file.load()
        if kept is not None and self._snapshot is None:
            self._contact_at = self._now() - self._file.age_s()
            await self._switch(kept)

    async def refresh(self) -> bool:
        """Ask the source once.

        Returns:
            Whether a newer snapshot came.

        Raises:
            Unavailable: The source does not answer.
            SnapshotRejected: What came is unsigned, malformed, older, or its policy does not compile.
        """
        held = self._snapshot
        raw = await self._source.fetch(held.revision if held else None)
        if raw is None:
            self._heard()
            return False
        fresh = decode_snapshot(raw, self._keys)
        if held is not None and fresh.revision < held.revision:
            raise SnapshotRejected(f"Revision {fresh.revision} is older than {held.revision}, which is in force.")
        self._heard()
        if held is not None and fresh.revision == held.revision:
            return False
        await self._switch(fresh)
        self._file.save(raw)
        return True

    def _heard(self) -> None:
        """Note that the source answered, with nothing newer or with what it signed."""
        self._contact_at = self._now()
        if self._contact_at - self._noted_at >= _CONTACT_NOTED_S:
            self._noted_at = self._contact_at
            self._file.note_contact()

    async def refresh_soon(self) -> None:
        """Ask the source out of turn, at most a few times a second; its absence is no fault here.

        Whoever asks sooner waits for the next answer together with the others, so that a key made just after the last
        one works at once, and guesses at keys cost the source nothing more.
        """
        if self._soon is None or self._soon.done():
            self._soon = asyncio.create_task(self._ask_in_turn())
        await asyncio.shield(self._soon)

    async def _ask_in_turn(self) -> None:
        await asyncio.sleep(max(0.0, self._asked_at + _OUT_OF_TURN_S - self._now()))
        self._asked_at = self._now()
        try:
            await self.refresh()
        except ClaveError as error:
            self._note_failure(error)

    async def _switch(self, snapshot: Snapshot) -> None:
        digest = snapshot.bundle.digest()
        if digest != self._policy:
            try:
                await self._engine.load(snapshot.bundle)
            except InvalidArgument as error:
                raise SnapshotRejected(f"The snapshot's policy was refused: {error.detail}") from error
            self._policy = digest
        self._snapshot = snapshot

    async def run(self, background: Background) -> None:
        """Refresh until cancelled; a source that is away is asked again and again."""
        await self.restore()
        while True:
            try:
                await self.refresh()
            except ClaveError as error:
                self._note_failure(error)
            else:
                self._failing = None
                background.healthy(LOOP_NAME)
            await self._wait()

    def _note_failure(self, error: ClaveError) -> None:
        if self._failing != error.code:
            _log.warning("access_snapshot_not_refreshed", code=error.code, detail=error.detail)
        self._failing = error.code

    async def _wait(self) -> None:
        """Wait for the gateway's next event, or for the next poll; an event during a refresh is not missed."""
        if self._redis is None:
            await asyncio.sleep(_POLL_S)
            return
        stream = event_stream("gateway")
        try:
            if self._seen is None:
                newest = await self._redis.xrevrange(stream, count=1)
                self._seen = newest[0][0] if newest else b"0-0"
                return
            await self._redis.xread({stream: self._seen}, count=1, block=int(_POLL_S * 1000))
            newest = await self._redis.xrevrange(stream, count=1)
            self._seen = newest[0][0] if newest else b"0-0"
        except REDIS_AWAY:
            self._seen = None
            await asyncio.sleep(_POLL_S)
