"""How tests wait for what must come: on a condition, and long enough for a machine that other work starves.

Nothing is measured by it. A test whose claim is a time (a key refused within two seconds) names its own bound.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

import httpx

PATIENCE_S = 60.0
"""How long a test waits for an answer or a change that takes a second or two on a machine of its own."""
LONG_S = 240.0
"""The same for a whole training run, a rollout, or the start or end of every process."""
BUSY_S = 20.0
"""How long a busy machine may take for what is promised within two seconds, such as the refusal of a revoked key."""
_PAUSE_S = 0.02


def make_httpx_patient() -> None:
    """Give every httpx call that names no timeout this patience, for its own five seconds are few on a busy machine."""
    shared: httpx.Timeout = inspect.signature(httpx.get).parameters["timeout"].default
    shared.connect = shared.read = shared.write = shared.pool = PATIENCE_S


def wait_until(condition: Callable[[], bool], *, what: str, seconds: float = PATIENCE_S) -> None:
    """Poll a condition until it holds.

    Raises:
        TimeoutError: It did not hold within `seconds`; the message names `what`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(_PAUSE_S)
    raise TimeoutError(f"{what} did not happen within {seconds:g} s")


async def eventually(
    condition: Callable[[], object | Awaitable[object]], *, what: str, seconds: float = PATIENCE_S
) -> None:
    """The same in an event loop; the condition may be a coroutine function.

    Raises:
        TimeoutError: It did not hold within `seconds`; the message names `what`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        await asyncio.sleep(_PAUSE_S)
    raise TimeoutError(f"{what} did not happen within {seconds:g} s")
