"""Whether a service can do its work, and what is missing where it cannot."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from clave_common.errors import ClaveError
from clave_common.redis_client import REDIS_AWAY

Check = Callable[[], Awaitable[None]]
_CHECK_S_MAX = 2.0


async def missing_dependencies(checks: Mapping[str, Check]) -> dict[str, str]:
    """Run every check at once.

    Returns:
        Name of each failing dependency and why; empty when the service is ready.
    """
    names = list(checks)
    results = await asyncio.gather(*(_verdict(checks[name]) for name in names))
    return {name: why for name, why in zip(names, results, strict=True) if why}


async def _verdict(check: Check) -> str:
    try:
        await asyncio.wait_for(check(), _CHECK_S_MAX)
    except ClaveError as error:
        return error.detail
    except TimeoutError:
        return f"no answer within {_CHECK_S_MAX:g} s"
    except REDIS_AWAY as error:
        return type(error).__name__
    return ""
