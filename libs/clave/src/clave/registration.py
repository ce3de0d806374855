"""Registers a model that was made elsewhere: hash its files, upload what is not there yet, name them as a version."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from clave_contracts.client import file_chunks
from clave_contracts.registry import Artifact, CardInput, Evaluation, RegistryClient, Signature, Version, VersionCreate
from pydantic import BaseModel, ValidationError

from clave.failures import EnvironmentFailure, Failure

T = TypeVar("T", bound=BaseModel)
MODEL_FILE = "model.onnx"
REFERENCE_FILE = "monitoring/reference.parquet"


@dataclass(frozen=True)
class Registration:
    """What is told about a version beside its files.

    Attributes:
        columns: Names of the input's columns, in order.
        score: Output that holds the score, ``probabilities:1`` for a column of it.
        threshold: Score at or above which the predicted class is 1.
        params: Hyperparameters.
        description: What is new in it.
        card: What a card needs and only people know.
        evaluation: Metrics by split, gates with their verdicts, and whether it passed.
    """

    columns: Sequence[str] = ()
    score: str | None = None
    threshold: float = 0.5
    params: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] | None = None


def artifact_paths(
    files: str | Path | Mapping[str, str | Path], reference: str | Path | None = None
) -> dict[str, Path]:
    """Give every file its path in the version: one file alone is the model itself.

    Raises:
        EnvironmentFailure: A file is not there.
    """
    named = dict(files) if isinstance(files, Mapping) else {_own_name(Path(files)): files}
    if reference is not None:
        named[REFERENCE_FILE] = reference
    paths = {name: Path(path) for name, path in named.items()}
    for path in paths.values():
        if not path.is_file():
            raise EnvironmentFailure(f"There is no file {path}.", remedy="Name the files of the version.")
    return paths


def _own_name(path: Path) -> str:
    return MODEL_FILE if path.suffix == ".onnx" else path.name


async def register_version(
    registry: RegistryClient, model: str, files: Mapping[str, Path], told: Registration
) -> Version:
    """Upload files and register them as the next version of a model.

    Args:
        registry: Where.
        model: The registered model.
        files: Path in the version to file on this machine.
        told: What else is known; inputs and outputs are read from the ONNX graph by the registry.

    Raises:
        Failure: The card or the evaluation is not of the registry's form.
    """
    request = VersionCreate(
        artifacts=[],
        signature=Signature(columns=list(told.columns), positive_output=told.score, threshold=told.threshold),
        params=dict(told.params),
        description=told.description,
        card=_read(CardInput, told.card),
        evaluation=None if told.evaluation is None else _read(Evaluation, told.evaluation),
    )
    artifacts = [await _uploaded(registry, name, path) for name, path in files.items()]
    request = request.model_copy(update={"artifacts": artifacts})
    return await registry.create_version(model, request, idempotency_key=f"register-{uuid4().hex}")


def _read(kind: type[T], told: Mapping[str, Any]) -> T:
    try:
        return kind.model_validate(dict(told))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Failure(f"The version's {kind.__name__.lower()} has a fault at {place}: {first['msg']}.") from error


async def _uploaded(registry: RegistryClient, name: str, path: Path) -> Artifact:
    digest, size = await asyncio.to_thread(_measured, path)
    if not await registry.has_blob(digest):
        await registry.put_blob(digest, file_chunks(str(path)))
    return Artifact(path=name, digest=digest, size=size)


def _measured(path: Path) -> tuple[str, int]:
    """Give a file's sha256 and its bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
