"""A real OPA server as policy engine, through ``opa_client``.

Imported only where a server is configured: its client costs each process some 12 MB.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import orjson
from opa_client.errors import ConnectionsError, PolicyNotFoundError, RegoParseError
from opa_client.opa_async import AsyncOpaClient

from clave_common.access.engine import encode_question, no_answer
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.errors import InvalidArgument

# A hung server refuses within this time; a machine that trains a model beside it takes over 0.25 s now and then.
OPA_TIMEOUT_S = 1.0
_LOADED = "loaded_digest"


class OpaEngine:
    """A real OPA server, asked over its REST API through ``opa_client``.

    The gateway loads it; services only ask. Retries are off, the time-out is short, paths are constant.
    """

    name = "opa"

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = OPA_TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._client = AsyncOpaClient(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 8181,
            ssl=parts.scheme == "https",
            token=token,
            retries=0,
            timeout=timeout_s,
        )
        self._open = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._open:
            self._open = False
            await self._client.close_connection()

    async def load(self, bundle: PolicyBundle) -> None:
        """Do nothing: the gateway alone loads the server (`publish`)."""

    async def publish(self, bundle: PolicyBundle) -> None:
        """Load the server with a bundle: data first, so that no new rule ever reads old data."""
        client = await self._opened()
        try:
            await client.update_or_create_data({**bundle.document(), _LOADED: bundle.digest()}, "clave")
            for package, text in sorted(bundle.packages().items()):
                await client.update_policy_from_string(text, package, rego_compat=False)
        except RegoParseError as error:
            raise InvalidArgument(f"OPA refuses the policy: {str(error)[:500]}", code="policy_invalid") from error
        except (ConnectionsError, aiohttp.ClientError, TimeoutError) as error:
            raise no_answer(self.name, type(error).__name__) from error

    async def holds(self, bundle: PolicyBundle) -> bool:
        """Tell whether the server holds a bundle's data and decides by its modules.

        Raises:
            Unavailable: The server does not answer.
        """
        client = await self._opened()
        try:
            loaded = await client.get_data(f"clave/{_LOADED}")
            answer = await client.query_rule({}, "clave.authz", "decision")
        except PolicyNotFoundError:
            return False
        except (ConnectionsError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise no_answer(self.name, type(error).__name__) from error
        return bool(loaded.get("result") == bundle.digest() and answer.get("result"))

    async def decide(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the server."""
        document = await self._query(question, "clave.authz", "decision")
        if not isinstance(document, dict):
            raise no_answer(self.name, "the decision is undefined")
        return document

    async def visible(self, question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Ask the server for the list filter."""
        clauses = await self._query(question, "clave.filters", "visible")
        return clauses if isinstance(clauses, list) else []

    async def _query(self, question: Mapping[str, Any], package: str, rule: str) -> Any:
        client = await self._opened()
        plain = orjson.loads(encode_question(question))
        try:
            answer = await client.query_rule(plain, package, rule)
        except (ConnectionsError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise no_answer(self.name, type(error).__name__) from error
        return answer.get("result") if isinstance(answer, dict) else None

    async def _opened(self) -> AsyncOpaClient:
        if not self._open:
            await self._client.__aenter__()
            self._open = True
        return self._client
