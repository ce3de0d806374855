"""The closed-loop MLOps suite: command line, Python SDK, local stack.

```python
from clave import Client

with Client() as client:  # finds the local stack, or CLAVE_URL and CLAVE_API_KEY
    answer = client.predict("churn", entities={"customer_id": ["7590-VHVEG"]})
```
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clave_contracts.problems import ServiceProblem

    from clave.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "ServiceProblem"]
_HOMES = {"AsyncClient": "clave.client", "Client": "clave.client", "ServiceProblem": "clave_contracts.problems"}


def __getattr__(name: str) -> Any:
    """Import the SDK at its first use: the command line starts without it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clave' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
