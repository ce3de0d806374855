"""What this process serves right now: endpoints, their routes, and the loaded versions behind them.

The table is replaced as a whole, by one assignment; a request that looked it up before finishes on what it found.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from clave_inference.codecs.answer_template import AnswerTemplate
from clave_inference.codecs.grpc_template import MessageTemplate
from clave_inference.domain.errors import ModelNotReady, ModelUnknown
from clave_inference.domain.routing import Arm, ArmRole, Route, place_of
from clave_inference.runtime.loaded_version import LoadedVersion

if TYPE_CHECKING:
    from clave_inference.services.plain_runs import Head, KnownHead
    from clave_inference.services.prediction_records import RunKind

VersionKey = tuple[str, int]


ANY_TENANT = "*"


@dataclass(frozen=True, slots=True)
class Governance:
    """What policy and callers want to know about a version, as the registry says it now.

    Attributes:
        manifest_digest: Names all the version's files.
        signature_verified: Whether a key that the registry trusts signed these very files. Their bytes are hashed
            before they are loaded, so what was signed is what answers.
    """

    tenant: str
    status: str
    rate_limit_per_minute: float
    contributors: tuple[str, ...] = ()
    allowed_namespaces: tuple[str, ...] = ()
    manifest_digest: str = ""
    signature_verified: bool = False


@dataclass(frozen=True, slots=True)
class ServedEndpoint:
    """An endpoint that answers.

    Attributes:
        feature_service: Where the features of a feature request come from.
    """

    name: str
    model: str
    namespace: str
    tenant: str
    route: Route
    feature_service: str | None = None


@dataclass(slots=True, eq=False)
class Target:
    """Which version answers one request, and which others see copies.

    Attributes:
        log_kinds: What the prediction log wrote about its requests before, by protocol.
    """

    endpoint: ServedEndpoint
    loaded: LoadedVersion
    arm: str
    shadows: "tuple[Target, ...]" = ()
    version_text: str = field(init=False)
    template: AnswerTemplate = field(init=False)
    log_kinds: "dict[str, RunKind]" = field(default_factory=dict)
    message_template: MessageTemplate = field(init=False)

    def __post_init__(self) -> None:
        loaded = self.loaded
        self.version_text = str(loaded.version)
        name, version, outputs = self.endpoint.name, self.version_text, loaded.signature.outputs
        self.template = AnswerTemplate(model_name=name, model_version=version, arm=self.arm, outputs=outputs)
        self.message_template = MessageTemplate(model_name=name, model_version=version, arm=self.arm, outputs=outputs)


@dataclass(frozen=True, slots=True)
class ServingTable:
    """Everything that can be asked for.

    Attributes:
        endpoints: By name.
        versions: Loaded versions.
        governance: By version, also of those that failed to load.
        failed: Desired versions that could not be loaded, and why.
        loading: Desired versions that are not loaded yet.
        known: False until a desired state was seen, from the registry or from disk.
        targets: Per endpoint, its targets and up to which place in [0, 1) each of them answers.
        known_heads: What `plain_runs` knows about requests as long as this table stands.
        tenants: Whose an endpoint is, also one that does not answer.
    """

    endpoints: Mapping[str, ServedEndpoint] = field(default_factory=dict)
    versions: Mapping[VersionKey, LoadedVersion] = field(default_factory=dict)
    governance: Mapping[VersionKey, Governance] = field(default_factory=dict)
    failed: Mapping[VersionKey, str] = field(default_factory=dict)
    loading: frozenset[VersionKey] = frozenset()
    unserved: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    known: bool = False
    targets: Mapping[str, tuple[tuple[float, Target], ...]] = field(default_factory=dict)
    known_heads: "dict[Head, KnownHead]" = field(default_factory=dict)
    tenants: Mapping[str, str] = field(default_factory=dict)
    _pinned: dict[tuple[str, int], Target] = field(default_factory=dict)

    def seen_by(self, tenant: str) -> "ServingTable":
        """Leave out what callers of a tenant must not know of; services, of tenant ``*``, know everything."""
        if tenant == ANY_TENANT:
            return self
        own = {key for key, governance in self.governance.items() if governance.tenant == tenant}
        return replace(
            self,
            endpoints={name: each for name, each in self.endpoints.items() if each.tenant == tenant},
            failed={key: why for key, why in self.failed.items() if key in own},
            loading=frozenset(key for key in self.loading if key in own),
            unserved={name: why for name, why in self.unserved.items() if self.tenants.get(name) == tenant},
        )

    def endpoint(self, name: str) -> ServedEndpoint:
        """Find an endpoint by its name, or the endpoint of a model by the model's.

        Raises:
            ModelUnknown: There is neither.
            ModelNotReady: It is desired, but none of its versions is loaded.
        """
        endpoint = self.endpoints.get(name)
        if endpoint is not None:
            return endpoint
        for candidate in self.endpoints.values():
            if candidate.model == name:
                return candidate
        if name in self.unserved:
            raise ModelNotReady(name, self.unserved[name])
        if not self.known:
            raise ModelNotReady(name, "the registry's desired state has not arrived yet")
        raise ModelUnknown(name)

    def target(self, name: str, version: str | None, routing_key: str | None) -> Target:
        """Choose what answers a request.

        Args:
            name: Endpoint or model.
            version: Pins a version; None lets the endpoint's route choose.
            routing_key: Makes the choice sticky.

        Raises:
            ModelUnknown: No such endpoint, model or version.
            ModelNotReady: It is desired, but not loaded.
        """
        if version:
            return self._pinned_target(self.endpoint(name), version)
        targets = self.targets.get(name)
        if targets is None:
            targets = self.targets[self.endpoint(name).name]
        if len(targets) == 1:
            return targets[0][1]
        place = random.random() if routing_key is None else place_of(routing_key, targets[0][1].endpoint.route.salt)  # noqa: S311  no secret
        for until, target in targets:
            if place < until:
                return target
        return targets[-1][1]

    def only_target(self, name: str, version: str | None) -> Target | None:
        """Give what answers every request; None where several versions share them, or a shadow sees copies.

        Raises:
            ModelUnknown: No such endpoint, model or version.
            ModelNotReady: It is desired, but not loaded.
        """
        if version:
            return self._pinned_target(self.endpoint(name), version)
        targets = self.targets[self.endpoint(name).name]
        return targets[0][1] if len(targets) == 1 and not targets[0][1].shadows else None

    def _pinned_target(self, endpoint: ServedEndpoint, version: str) -> Target:
        loaded = self.pinned(endpoint, version)
        key = (endpoint.name, loaded.version)
        target = self._pinned.get(key)
        if target is None:
            target = self._pinned[key] = Target(endpoint, loaded, "pinned")
        return target

    def pinned(self, endpoint: ServedEndpoint, version: str) -> LoadedVersion:
        """Find a loaded version of an endpoint's model.

        Raises:
            ModelUnknown: There is no such version here.
            ModelNotReady: It is desired, but not loaded.
        """
        number = int(version) if version.isascii() and version.isdigit() and len(version) < 10 else -1  # noqa: PLR2004
        loaded = self.versions.get((endpoint.model, number))
        if loaded is None:
            if (endpoint.model, number) in self.loading:
                raise ModelNotReady(endpoint.name, f"version {number} is being loaded")
            raise ModelUnknown(endpoint.name, version)
        return loaded

    def _loaded(self, arm: Arm) -> LoadedVersion:
        return self.versions[(arm.model, int(arm.version))]

    def live(self, endpoint: ServedEndpoint) -> LoadedVersion:
        """Give the version that most of an endpoint's requests meet."""
        arms = endpoint.route.arms
        arm = next((arm for arm in arms if arm.role is ArmRole.LIVE), arms[0])
        return self._loaded(arm)

    def versions_of(self, endpoint: ServedEndpoint) -> list[int]:
        """List the loaded versions of an endpoint's model."""
        return sorted(number for model, number in self.versions if model == endpoint.model)

    def countable(self) -> set[tuple[str, str]]:
        """List every endpoint with every version of it, and with an empty one: what figures may be about."""
        pairs = {(name, "") for name in (*self.endpoints, *self.unserved)}
        for endpoint in self.endpoints.values():
            pairs.update((endpoint.name, str(number)) for number in self.versions_of(endpoint))
        return pairs

    def missing(self) -> Iterator[str]:
        """Say what keeps this process from being ready, one sentence each."""
        if not self.known:
            yield "the registry's desired state has not arrived yet"
        for model, version in sorted(self.loading):
            yield f"model '{model}' version {version} is being loaded"
        yield from (f"endpoint '{name}': {why}" for name, why in sorted(self.unserved.items()))


def prepared_targets(
    endpoints: Mapping[str, ServedEndpoint], versions: Mapping[VersionKey, LoadedVersion]
) -> dict[str, tuple[tuple[float, Target], ...]]:
    """Lay out every endpoint's targets over [0, 1), so that a request only has to look its own up."""
    prepared: dict[str, tuple[tuple[float, Target], ...]] = {}
    for name, endpoint in endpoints.items():
        shadows = tuple(
            Target(endpoint, versions[(arm.model, int(arm.version))], arm.role.value) for arm in endpoint.route.shadows
        )
        until = 0.0
        places: list[tuple[float, Target]] = []
        for arm in endpoint.route.arms:
            until += arm.weight
            loaded = versions[(arm.model, int(arm.version))]
            places.append((until, Target(endpoint, loaded, arm.role.value, shadows)))
        prepared[name] = tuple(places)
    return prepared
