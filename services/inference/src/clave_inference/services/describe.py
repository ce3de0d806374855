"""Describe what is served: metadata, configuration, statistics and the repository's index, for REST and gRPC alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clave_common.access.model import Caller
from clave_common.errors import FailedPrecondition

from clave_inference.domain.errors import ModelNotReady
from clave_inference.domain.signature import TensorSpec
from clave_inference.metrics import PredictionMetrics
from clave_inference.runtime.loaded_version import LoadedVersion
from clave_inference.services.serving import Governance, ServedEndpoint, ServingTable

SERVER_NAME = "clave-inference"
PLATFORM = "onnx_onnxv1"
EXTENSIONS = ["binary_tensor_data", "model_repository", "model_configuration", "parameters", "statistics"]


class ManagedByRegistry(FailedPrecondition):
    """Loading and unloading by hand is refused: the registry says what is desired."""

    code = "managed_by_registry"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"Which versions of '{model[:200]}' are loaded follows from the registry: change its endpoint "
            "('clave endpoints ...'), and this service follows within two seconds.",
            model=model[:200],
        )


@dataclass(frozen=True, slots=True)
class Description:
    """A model as callers see it."""

    endpoint: ServedEndpoint
    loaded: LoadedVersion
    versions: list[int]
    governance: Governance

    def provenance(self) -> dict[str, Any]:
        """Say which version this is, and whether its files are signed by a key that the registry trusts."""
        return {
            "model": self.loaded.model,
            "version": str(self.loaded.version),
            "status": self.governance.status,
            "manifest_digest": self.governance.manifest_digest,
            "onnx_digest": self.loaded.digest,
            "signature_verified": self.governance.signature_verified,
        }


class Describe:
    """Answers questions about what is served."""

    def __init__(self, table: Callable[[], ServingTable], metrics: PredictionMetrics) -> None:
        self._table = table
        self._metrics = metrics

    def seen_by(self, caller: Caller) -> "Describe":
        """Answer for one caller: what another tenant serves is not there."""
        return Describe(lambda: self._table().seen_by(caller.tenant), self._metrics)

    def model(self, name: str, version: str | None = None) -> Description:
        """Find a model by endpoint or name, and a version of it.

        Raises:
            ModelUnknown: There is none.
            ModelNotReady: It is desired, but not loaded.
        """
        table = self._table()
        endpoint = table.endpoint(name)
        loaded = table.pinned(endpoint, version) if version else table.live(endpoint)
        governance = table.governance[(loaded.model, loaded.version)]
        return Description(endpoint, loaded, table.versions_of(endpoint), governance)

    def names(self) -> list[str]:
        """List the endpoints that answer."""
        return sorted(self._table().endpoints)

    def metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Give the protocol's model metadata; its parameters say where the version comes from."""
        described = self.model(name, version)
        signature = described.loaded.signature
        return {
            "name": described.endpoint.name,
            "versions": [str(number) for number in described.versions],
            "platform": PLATFORM,
            "inputs": [_tensor(spec) for spec in signature.inputs],
            "outputs": [_tensor(spec) for spec in signature.outputs],
            "parameters": described.provenance(),
        }

    def config(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Give Triton's model configuration, as far as it has a meaning here."""
        described = self.model(name, version)
        signature = described.loaded.signature
        return {
            "name": described.endpoint.name,
            "platform": PLATFORM,
            "backend": "onnxruntime",
            "max_batch_size": 0,
            "input": [_configured(spec) for spec in signature.inputs],
            "output": [_configured(spec) for spec in signature.outputs],
            "parameters": {
                "columns": {"string_value": ",".join(signature.feature_names)},
                **{name: {"string_value": _text(value)} for name, value in described.provenance().items()},
            },
        }

    def statistics(self, name: str | None = None, version: str | None = None) -> list[dict[str, Any]]:
        """Give counts per endpoint and version."""
        table = self._table()
        endpoints = [table.endpoint(name)] if name else list(table.endpoints.values())
        statistics: list[dict[str, Any]] = []
        for endpoint in endpoints:
            numbers = [table.pinned(endpoint, version).version] if version else table.versions_of(endpoint)
            for number in numbers:
                good, bad, seconds = self._metrics.answered_by_version(endpoint.name, str(number))
                statistics.append(
                    {
                        "name": endpoint.name,
                        "version": str(number),
                        "inference_count": self._metrics.rows(endpoint.name, str(number)),
                        "execution_count": table.versions[(endpoint.model, number)].runs,
                        "inference_stats": {
                            "success": {"count": good, "ns": int(seconds * 1e9)},
                            "fail": {"count": bad, "ns": 0},
                        },
                    }
                )
        return statistics

    def index(self) -> list[dict[str, str]]:
        """Give the repository's index: every desired version and its state."""
        table = self._table()
        rows: list[dict[str, str]] = []
        for endpoint in sorted(table.endpoints.values(), key=lambda served: served.name):
            rows += [
                {"name": endpoint.name, "version": str(number), "state": "READY", "reason": ""}
                for number in table.versions_of(endpoint)
            ]
        rows += [
            {"name": model, "version": str(number), "state": "LOADING", "reason": ""}
            for model, number in sorted(table.loading)
        ]
        rows += [
            {"name": model, "version": str(number), "state": "UNAVAILABLE", "reason": why}
            for (model, number), why in sorted(table.failed.items())
        ]
        return rows

    def ready(self, name: str, version: str | None = None) -> bool:
        """Whether a model answers.

        Raises:
            ModelUnknown: There is no such model.
        """
        try:
            self.model(name, version)
        except ModelNotReady:
            return False
        return True


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _configured(spec: TensorSpec) -> dict[str, Any]:
    kind = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": kind, "dims": list(spec.shape)}
