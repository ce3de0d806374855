"""A typed client of the registry's own API."""

from collections.abc import AsyncIterator

from clave_contracts.client import ServiceClient
from clave_contracts.problems import ServiceProblem, checked
from clave_contracts.registry.endpoints import (
    DesiredState,
    Endpoint,
    EndpointCreate,
    ObservedState,
    Rollout,
    RolloutCreate,
)
from clave_contracts.registry.versions import API, Model, ModelCreate, SubmitRequest, Version, VersionCreate


class RegistryClient(ServiceClient):
    """Calls the registry."""

    async def has_blob(self, digest: str) -> bool:
        """Ask whether a blob is stored already."""
        try:
            await self.send("HEAD", f"{API}/blobs/{digest}")
        except ServiceProblem as problem:
            if problem.status == 404:  # noqa: PLR2004 - HTTP's own number
                return False
            raise
        return True

    async def put_blob(self, digest: str, content: bytes | AsyncIterator[bytes]) -> None:
        """Store bytes under their sha256."""
        await self.send(
            "PUT",
            f"{API}/blobs/{digest}",
            content=content,
            headers={"content-type": "application/octet-stream"},
        )

    async def blob(self, digest: str) -> AsyncIterator[bytes]:
        """Stream a blob."""
        async with self.http.stream("GET", f"{API}/blobs/{digest}") as response:
            if response.is_error:
                await response.aread()
                checked(response)
            async for chunk in response.aiter_bytes():
                yield chunk

    async def create_model(self, request: ModelCreate, *, on_behalf_of: str | None = None) -> Model:
        """Create a registered model; ServiceProblem with code ``already_exists`` when the name is taken."""
        return await self.post(Model, f"{API}/models", request, on_behalf_of=on_behalf_of)

    async def create_version(
        self, model: str, request: VersionCreate, *, idempotency_key: str, on_behalf_of: str | None = None
    ) -> Version:
        """Register a version."""
        return await self.post(
            Version,
            f"{API}/models/{model}/versions",
            request,
            idempotency_key=idempotency_key,
            on_behalf_of=on_behalf_of,
        )

    async def version(self, model: str, version: int) -> Version:
        """Describe a version."""
        return await self.get(Version, f"{API}/models/{model}/versions/{version}")

    async def submit(
        self, model: str, version: int, request: SubmitRequest, *, on_behalf_of: str | None = None
    ) -> Version:
        """Ask for approval; it may come at once when policy needs no human."""
        return await self.post(
            Version, f"{API}/models/{model}/versions/{version}/submit", request, on_behalf_of=on_behalf_of
        )

    async def endpoint(self, name: str) -> Endpoint:
        """Describe an endpoint."""
        return await self.get(Endpoint, f"{API}/endpoints/{name}")

    async def create_endpoint(self, request: EndpointCreate, *, on_behalf_of: str | None = None) -> Endpoint:
        """Create an endpoint; a version given goes live at once."""
        return await self.post(Endpoint, f"{API}/endpoints", request, on_behalf_of=on_behalf_of)

    async def create_rollout(
        self, endpoint: str, request: RolloutCreate, *, idempotency_key: str, on_behalf_of: str | None = None
    ) -> Rollout:
        """Start moving a version towards live traffic."""
        return await self.post(
            Rollout,
            f"{API}/endpoints/{endpoint}/rollouts",
            request,
            idempotency_key=idempotency_key,
            on_behalf_of=on_behalf_of,
        )

    async def rollout(self, rollout_id: str) -> Rollout:
        """Describe a rollout."""
        return await self.get(Rollout, f"{API}/rollouts/{rollout_id}")

    async def desired(self, *, etag: str | None = None) -> DesiredState | None:
        """Read the desired state; None when it is still the one of `etag`."""
        headers = {"if-none-match": etag} if etag else {}
        response = await self.send("GET", f"{API}/desired", headers=headers)
        if response.status_code == 304:  # noqa: PLR2004 - HTTP's own number
            return None
        return DesiredState.model_validate_json(response.content)

    async def report_observed(self, instance: str, state: ObservedState) -> None:
        """Tell what an inference process has loaded."""
        await self.send("PUT", f"{API}/observed/{instance}", body=state)
