"""What a step may use: its run, the outputs of earlier steps, the other services, the blob store, progress."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from clave_common.blobstore import BlobStore
from clave_contracts.features import FeaturesClient
from clave_contracts.monitor import MonitorClient
from clave_contracts.registry import RegistryClient
from clave_contracts.trainer import PipelineSpec

from clave_trainer.runtime.artifacts import Pointer, fetch_file, store_file
from clave_trainer.runtime.compute import OUT_FOLDER
from clave_trainer.runtime.compute_process import Workroom, compute
from clave_trainer.services.engine import StepRefused, StepResult, StepWaits

Outcome = StepResult | StepWaits | StepRefused
Handler = Callable[["StepContext"], Awaitable[Outcome]]


@dataclass(frozen=True)
class Peers:
    """Typed clients of the services that steps ask."""

    features: FeaturesClient
    registry: RegistryClient
    monitor: MonitorClient


@dataclass(frozen=True)
class RunFacts:
    """The run that a step belongs to."""

    id: str
    pipeline: str
    pipeline_version: int
    spec: PipelineSpec
    trigger: str
    reason: str
    requested_by: str
    evaluation_after: datetime | None
    roll_out: bool
    retraining_decision_id: str | None
    created_at: datetime

    @property
    def on_behalf_of(self) -> str | None:
        """Principal to name towards other services; None where the trainer acts for itself."""
        return None if self.requested_by.startswith("service:") else self.requested_by


@dataclass(frozen=True)
class StepContext:
    """One attempt of one step.

    Attributes:
        name: The step.
        outputs: What the succeeded steps of the run gave, by step.
        own: What this step noted before it waited; empty at its first start.
        earlier: Output of the pipeline's latest successful feedback collection, empty when there is none.
        report: Takes progress in [0, 1] and a line for people.
    """

    name: str
    run: RunFacts
    outputs: dict[str, dict[str, Any]]
    own: dict[str, Any]
    earlier: dict[str, Any]
    peers: Peers
    blobs: BlobStore
    rooms: Path
    worker_pid: int
    threads: int
    memory_bytes_max: int
    report: Callable[[float, str], Awaitable[None]]

    def artifact(self, path: str) -> Pointer:
        """Find the pointer of a file that an earlier step made."""
        for output in self.outputs.values():
            pointer = output.get("artifacts", {}).get(path)
            if pointer is not None:
                return dict(pointer)
        raise KeyError(path)

    def facts(self, step: str) -> dict[str, Any]:
        """Read the facts that an earlier step gave."""
        return dict(self.outputs[step].get("facts", {}))

    async def compute(
        self, request: dict[str, Any], *, files: list[str], keep: list[str], champion: Pointer | None = None
    ) -> tuple[dict[str, Any], dict[str, Pointer]]:
        """Run this step's computation on stored files and store what it makes.

        Args:
            request: Parameters of the computation.
            files: Artifacts of earlier steps that it reads.
            keep: Files that it writes and that are kept.
            champion: The champion's graph in the registry, fetched as ``champion.onnx``.

        Returns:
            The computation's result and pointers to the kept files.
        """
        with Workroom(self.rooms, self.worker_pid) as folder:
            for name in files:
                digest = self.artifact(name)["digest"]
                await fetch_file(self.blobs.read(digest), folder / name, digest)
            if champion is not None:
                digest = champion["digest"]
                await fetch_file(self.peers.registry.blob(digest), folder / "champion.onnx", digest)
            whole = {**request, "step": self.name, "memory_bytes_max": self.memory_bytes_max}
            result = await compute(folder, whole, threads=self.threads, report=self.report)
            made = folder / OUT_FOLDER
            stored = {name: await store_file(self.blobs, made / name) for name in keep if (made / name).exists()}
        return result, stored
