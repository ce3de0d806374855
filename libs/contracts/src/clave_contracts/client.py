"""What the typed clients have in common: one call in, one parsed answer out, problems raised."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter

from clave_contracts.problems import checked, unreachable

T = TypeVar("T")


class ServiceClient:
    """A thin typed layer over an authenticated `httpx.AsyncClient`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | Mapping[str, Any] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Call a route.

        Raises:
            ServiceProblem: The service refused, failed or did not answer.
        """
        merged = dict(headers or {})
        if isinstance(body, BaseModel):
            content = body.model_dump_json(exclude_none=True).encode()
            merged.setdefault("content-type", "application/json")
        json = body if isinstance(body, Mapping) else None
        asked = {key: value for key, value in (params or {}).items() if value is not None}
        try:
            response = await self.http.request(method, path, json=json, content=content, params=asked, headers=merged)
        except httpx.TransportError as error:
            raise unreachable(error, str(self.http.base_url)) from error
        return checked(response)

    async def get(self, kind: type[T], path: str, **params: Any) -> T:
        """GET and parse."""
        response = await self.send("GET", path, params=params)
        return TypeAdapter(kind).validate_json(response.content)

    async def post(
        self,
        kind: type[T],
        path: str,
        body: BaseModel | Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        on_behalf_of: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """POST and parse."""
        headers = dict(headers or {})
        if idempotency_key:
            headers["idempotency-key"] = idempotency_key
        if on_behalf_of:
            headers["x-clave-on-behalf-of"] = on_behalf_of
        response = await self.send("POST", path, body=body, headers=headers)
        return TypeAdapter(kind).validate_json(response.content)


async def file_chunks(path: str, *, chunk_bytes: int = 1024 * 1024) -> AsyncIterator[bytes]:
    """Stream a file's bytes as an upload body."""
    with open(path, "rb") as file:  # noqa: ASYNC230, PTH123 - local disk, chunk by chunk
        while chunk := file.read(chunk_bytes):
            yield chunk
