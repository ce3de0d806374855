"""Deploy: bring what this process serves to what the registry desires, and say how far it got.

A new version is fetched, hashed, checked in a process of its own, loaded and warmed up while the old one answers; then
one assignment switches. A version that cannot be loaded takes no traffic: its share goes to the endpoint's other
versions, and the registry is told. Versions that nobody desires any more go when their last batch is done.

The desired state that was served completely is kept on disk; a start without the registry serves from it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from clave_common.logs import get_logger
from clave_contracts.problems import ServiceProblem
from clave_contracts.registry import (
    Artifact,
    DesiredEndpoint,
    DesiredState,
    DesiredVersion,
    ObservedState,
    ObservedVersion,
)
from pydantic import ValidationError

from clave_inference.domain.errors import ModelNotReady, ModelRejected
from clave_inference.domain.routing import Arm, ArmRole, Route, ordered_arms
from clave_inference.domain.signature import Signature, TensorSpec
from clave_inference.domain.tree_explanation import NotExplainable
from clave_inference.runtime import explain_tables
from clave_inference.runtime.loaded_version import LoadedVersion, load_version
from clave_inference.runtime.model_check import check_in_process
from clave_inference.runtime.session import give_memory_back
from clave_inference.services.serving import Governance, ServedEndpoint, ServingTable, VersionKey, prepared_targets
from clave_inference.storage.artifact_cache import ArtifactCache, ArtifactDamaged

_log = get_logger(__name__)
MODEL_PATH = "model.onnx"


class Registry(Protocol):
    """The part of the registry that deployment needs."""

    async def desired(self, etag: str | None) -> tuple[str, DesiredState] | None:
        """Give the desired state and its etag; None when it is still the one of `etag`."""
        ...

    def blob(self, digest: str) -> AsyncIterator[bytes]:
        """Stream a blob."""
        ...

    async def report(self, instance: str, state: ObservedState) -> None:
        """Tell what is loaded."""
        ...


class Deployment:
    """What one process serves.

    Args:
        registry: Where desired state and bytes come from.
        cache: Local files.
        instance: Names this process in reports.
        check: Judges an untrusted model file; raises ModelRejected.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        cache: ArtifactCache,
        instance: str,
        check: Callable[[Path], None] = check_in_process,
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._instance = instance
        self._check = check
        self._etag: str | None = None
        self._reported: ObservedState | None = None
        self._desired: DesiredState | None = None
        self._retry = False
        self.table = ServingTable()
        self.on_switch: Callable[[], None] = lambda: None

    async def start_from_disk(self) -> None:
        """Serve what was good last, before the registry is asked."""
        document = await asyncio.to_thread(self._cache.load_desired)
        if document is None:
            return
        try:
            desired = DesiredState.model_validate_json(document)
        except ValidationError:
            _log.warning("last_known_good_unreadable")
            return
        await self._bring_to(desired, fetch=False)
        self._desired, self._retry = desired, bool(self.table.failed)
        _log.info("serving_last_known_good", revision=desired.revision, versions=len(self.table.versions))

    async def step(self) -> None:
        """Ask the registry once and follow.

        Raises:
            ServiceProblem: The registry does not answer; what is served stays.
        """
        answer = await self._registry.desired(None if self._retry else self._etag)
        if answer is not None:
            etag, desired = answer
            if self._retry or self._desired is None or desired != self._desired:
                self._retry = False
                await self._bring_to(desired, fetch=True)
                if not self._retry:
                    self._desired = desired
            self._etag = etag
        await self._report()

    async def _bring_to(self, desired: DesiredState, *, fetch: bool) -> None:
        old = self.table
        wanted = {(version.model, version.version): version for version in desired.versions}
        versions = {key: old.versions[key] for key in wanted if key in old.versions}
        failed: dict[VersionKey, str] = {}
        missing = [key for key in wanted if key not in versions]
        for done, key in enumerate(missing):
            self.table = self._table(desired, versions, failed, frozenset(missing[done:]), old)
            try:
                versions[key] = await self._load(wanted[key], fetch=fetch)
            except ModelRejected as reason:
                failed[key] = str(reason)
                _log.error("model_rejected", model=key[0], version=key[1], reason=str(reason))
            except (ServiceProblem, ArtifactDamaged, OSError) as fault:
                failed[key] = f"its bytes could not be had ({type(fault).__name__}: {str(fault)[:200]})"
                self._retry = True
                _log.warning("model_not_fetched", model=key[0], version=key[1], reason=failed[key])
        self.table = self._table(desired, versions, failed, frozenset(), old)
        self.on_switch()
        dropped = set(old.versions) - set(versions)
        _log.info(
            "desired_state_applied",
            revision=desired.revision,
            versions=len(versions),
            failed=len(failed),
            dropped=len(dropped),
        )
        if fetch and not failed:
            await asyncio.to_thread(self._settle, desired)
        if dropped:
            asyncio.get_running_loop().call_later(1.0, give_memory_back)

    def _settle(self, desired: DesiredState) -> None:
        self._cache.save_desired(desired.model_dump_json().encode())
        self._cache.keep_only(artifact.digest for version in desired.versions for artifact in version.artifacts)

    async def _load(self, version: DesiredVersion, *, fetch: bool) -> LoadedVersion:
        artifacts = {artifact.path: artifact for artifact in version.artifacts}
        model = artifacts.get(MODEL_PATH)
        if model is None:
            raise ModelRejected(f"it has no artifact '{MODEL_PATH}'")
        path = await self._fetched(model, fetch=fetch)
        await asyncio.to_thread(self._judge, model.digest, path)
        return await asyncio.to_thread(
            load_version,
            model=version.model,
            version=version.version,
            digest=model.digest,
            path=path,
            signature=signature_of(version),
            positive_output=version.signature.positive_output,
        )

    async def _fetched(self, artifact: Artifact, *, fetch: bool) -> Path:
        if await asyncio.to_thread(self._cache.holds, artifact.digest):
            return self._cache.path(artifact.digest)
        if not fetch:
            raise ArtifactDamaged(f"'{artifact.path}' is not in the local cache")
        return await self._cache.store(artifact.digest, artifact.size, self._registry.blob(artifact.digest))

    async def trees(self, model: str, version: int) -> tuple[str, Path]:
        """Fetch a version's own tree file, for explanations; gives its digest and path.

        Raises:
            NotExplainable: The version has none.
            ModelNotReady: It cannot be had now.
        """
        desired = self._desired
        wanted = [] if desired is None else desired.versions
        for candidate in wanted:
            if (candidate.model, candidate.version) == (model, version):
                for artifact in candidate.artifacts:
                    if artifact.path == explain_tables.MODEL_PATH:
                        return artifact.digest, await self._trees(model, artifact)
        raise NotExplainable(f"the version has no artifact '{explain_tables.MODEL_PATH}'")

    async def _trees(self, model: str, artifact: Artifact) -> Path:
        try:
            return await self._fetched(artifact, fetch=True)
        except (ServiceProblem, ArtifactDamaged, OSError) as fault:
            raise ModelNotReady(model, f"its trees could not be had ({type(fault).__name__})") from fault

    def _judge(self, digest: str, path: Path) -> None:
        verdict = self._cache.verdict(digest)
        if verdict is None:
            try:
                self._check(path)
                verdict = ""
            except ModelRejected as reason:
                verdict = str(reason)
            self._cache.keep_verdict(digest, verdict)
        if verdict:
            raise ModelRejected(verdict)

    def _table(
        self,
        desired: DesiredState,
        versions: dict[VersionKey, LoadedVersion],
        failed: dict[VersionKey, str],
        loading: frozenset[VersionKey],
        old: ServingTable,
    ) -> ServingTable:
        available = {**old.versions, **versions} if loading else versions
        endpoints: dict[str, ServedEndpoint] = {}
        unserved: dict[str, str] = {}
        for endpoint in desired.endpoints:
            route = self._route(endpoint, available)
            if route is None and loading:
                known = old.endpoints.get(endpoint.name)
                if known is not None:
                    endpoints[endpoint.name] = known
                    continue
            if route is None:
                if endpoint.routes:
                    reasons = [
                        failed.get((endpoint.model, r.version), "its version is being loaded") for r in endpoint.routes
                    ]
                    unserved[endpoint.name] = "; ".join(reasons)
                continue
            endpoints[endpoint.name] = ServedEndpoint(
                endpoint.name, endpoint.model, endpoint.namespace, endpoint.tenant, route, endpoint.feature_service
            )
        governance = {(v.model, v.version): governance_of(v) for v in desired.versions}
        return ServingTable(
            endpoints,
            dict(available),
            {**old.governance, **governance} if loading else governance,
            dict(failed),
            loading,
            unserved,
            desired.revision,
            known=True,
            targets=prepared_targets(endpoints, available),
            tenants={endpoint.name: endpoint.tenant for endpoint in desired.endpoints},
        )

    @staticmethod
    def _route(endpoint: DesiredEndpoint, available: dict[VersionKey, LoadedVersion]) -> Route | None:
        """Lay out an endpoint's routes over the versions at hand, shares scaled to add up to 1."""
        present = [route for route in endpoint.routes if (endpoint.model, route.version) in available]
        total = sum(route.weight for route in present if route.arm != "shadow")
        if total <= 0:
            return None
        arms = [
            Arm(ArmRole(route.arm), endpoint.model, str(route.version), route.weight / total)
            for route in present
            if route.arm != "shadow"
        ]
        shadows = tuple(
            Arm(ArmRole.SHADOW, endpoint.model, str(route.version), 0.0) for route in present if route.arm == "shadow"
        )
        return Route(endpoint.name, ordered_arms(arms), shadows, endpoint.name)

    async def _report(self) -> None:
        state = self.observed()
        if state == self._reported:
            return
        await self._registry.report(self._instance, state)
        self._reported = state

    def observed(self) -> ObservedState:
        """Describe what this process has loaded, for the registry."""
        table = self.table
        seen = [
            *(ObservedVersion(model=m, version=v, state="ready") for m, v in sorted(table.versions)),
            *(ObservedVersion(model=m, version=v, state="loading") for m, v in sorted(table.loading)),
            *(
                ObservedVersion(model=m, version=v, state="failed", detail=why)
                for (m, v), why in sorted(table.failed.items())
            ),
        ]
        return ObservedState(revision=table.revision, versions=seen)

    def forget_report(self) -> None:
        """Report again at the next step: the registry may have lost what it was told."""
        self._reported = None


def signature_of(version: DesiredVersion) -> Signature:
    """Read a version's signature.

    Raises:
        ModelRejected: It makes no sense.
    """
    try:
        return Signature(
            tuple(TensorSpec(s.name, s.datatype, tuple(s.shape)) for s in version.signature.inputs),
            tuple(TensorSpec(s.name, s.datatype, tuple(s.shape)) for s in version.signature.outputs),
            tuple(version.signature.columns),
        )
    except ValueError as fault:
        raise ModelRejected(f"its signature is malformed: {fault}") from None


def governance_of(version: DesiredVersion) -> Governance:
    """Read what policy and callers want to know about a version."""
    return Governance(
        version.tenant,
        version.status,
        version.rate_limit_per_minute,
        tuple(version.contributors),
        tuple(version.allowed_namespaces),
        version.manifest_digest,
        version.signature_verified,
    )
