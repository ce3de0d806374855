"""The online store: one packed row per (view, entity) in Redis, written only when newer.

The guard is a Lua script: it compares the order bytes of what is there with those of what comes, so that retries,
late events and a rebuild running beside an ingest can do no harm. A row of an equal order but another schema is
replaced: that is a rebuild after a changed definition. Keys expire long after the values do (`grace`), so that a read
can still tell OUTSIDE_MAX_AGE from NOT_FOUND; the time to live itself is tested at the read.
"""

from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Any, Final, cast

from clave_common.redis_client import REDIS_AWAY
from redis.asyncio import Redis

from clave_features.domain.errors import OnlineStoreAway
from clave_features.domain.online_values import HASH_BYTES, ORDER_END, ORDER_START

_KEYS_PER_CALL: Final = 200
_GUARD: Final = f"""
local written = 0
for i = 1, #KEYS do
  local new, expire_at = ARGV[2 * i - 1], ARGV[2 * i]
  local old = redis.call('GETRANGE', KEYS[i], 0, {ORDER_END - 1})
  local write = #old < {ORDER_END} or string.byte(old, 1) ~= string.byte(new, 1)
  if not write then
    local equal = true
    for b = {ORDER_START + 1}, {ORDER_END} do
      local n, o = string.byte(new, b), string.byte(old, b)
      if n ~= o then
        write = n > o
        equal = false
        break
      end
    end
    if equal then
      write = string.sub(new, 2, {HASH_BYTES + 1}) ~= string.sub(old, 2, {HASH_BYTES + 1})
    end
  end
  if write then
    if expire_at == '' then
      redis.call('SET', KEYS[i], new)
    else
      redis.call('SET', KEYS[i], new, 'EXAT', expire_at)
    end
    written = written + 1
  end
end
return written
"""


class OnlineStore:
    """Reads and writes packed rows."""

    def __init__(self, redis: Redis, *, grace: timedelta) -> None:
        self._redis = redis
        self._grace = grace
        self._guard = redis.register_script(_GUARD)

    @staticmethod
    def key(view: str, entity: bytes) -> bytes:
        """Name the Redis key of one entity in one view."""
        return b"features:%s:{%s}" % (view.encode(), entity)

    async def write(self, view: str, rows: Sequence[tuple[bytes, bytes]], *, ttl: timedelta | None) -> int:
        """Write packed rows that are newer than what is there.

        Args:
            view: Name of the view.
            rows: Pairs of (entity key, packed row).
            ttl: Time to live of the view.

        Returns:
            Number of rows that were newer.

        Raises:
            OnlineStoreAway: Redis does not answer.
        """
        written = 0
        try:
            for start in range(0, len(rows), _KEYS_PER_CALL):
                chunk = rows[start : start + _KEYS_PER_CALL]
                arguments: list[bytes | str] = []
                for _, blob in chunk:
                    arguments += [blob, self._expires_at(blob, ttl)]
                keys = [self.key(view, entity) for entity, _ in chunk]
                written += int(await self._guard(keys=keys, args=arguments))
        except REDIS_AWAY as error:
            raise _away() from error
        return written

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read packed rows in one round trip, in the order of the keys.

        Raises:
            OnlineStoreAway: Redis does not answer.
        """
        try:
            return cast("list[bytes | None]", await cast("Awaitable[Any]", self._redis.mget(keys)))
        except REDIS_AWAY as error:
            raise _away() from error

    async def ping(self) -> None:
        """Raise OnlineStoreAway unless Redis answers."""
        try:
            await cast("Awaitable[Any]", self._redis.ping())
        except REDIS_AWAY as error:
            raise _away() from error

    def _expires_at(self, blob: bytes, ttl: timedelta | None) -> str:
        if not ttl:
            return ""
        event_us = int.from_bytes(blob[ORDER_START : ORDER_START + 8], "big") - (1 << 63)
        at = event_us // 1_000_000 + int((ttl + self._grace).total_seconds()) + 1
        return str(max(at, 1))


def _away() -> OnlineStoreAway:
    return OnlineStoreAway(
        "The online store does not answer. Values already ingested are safe in the history.", retry_after_s=1.0
    )
