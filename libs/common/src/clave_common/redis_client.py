"""The service's connection to Redis (or Valkey)."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

REDIS_AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
"""What redis-py raises while the server is away."""


def connect_redis(url: str, *, timeout_s: float = 5.0) -> Redis:
    """Connect lazily to ``unix://...`` or ``redis://...``; bytes in, bytes out.

    Args:
        url: Where the server is, with its password.
        timeout_s: Seconds for a connection and for one answer; blocking reads must ask for less.
    """
    client: Redis = Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=2.0,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 1),
        health_check_interval=30,
    )
    return client
