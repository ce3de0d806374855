"""The reference of a model version: fetched from the registry by digest, kept on disk, parsed once.

The artifact `monitoring/reference.parquet` holds the test split as served: the model's features, `score`, `label`
and the protected attributes. It is frozen with the version; another version has another reference and
another monitor.
"""

import asyncio
import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from clave_common.errors import FailedPrecondition, Unavailable
from clave_contracts.problems import ServiceProblem
from clave_contracts.registry import RegistryClient, Version
from numpy.typing import NDArray

from clave_monitor.domain.counters import Sketch, sketch
from clave_monitor.domain.performance import Baseline, baseline
from clave_monitor.domain.scores import Scored
from clave_monitor.runtime import arrow
from clave_monitor.storage.records import Key

ARTIFACT = "monitoring/reference.parquet"
_BYTES_MAX = 512 * 1024 * 1024
_CACHED_MAX = 8
_SCORE, _LABEL = "score", "label"


class NoReference(FailedPrecondition):
    """The version has no reference that can be monitored against."""

    code = "no_reference"


@dataclass(frozen=True)
class Reference:
    """What a version is monitored against.

    Attributes:
        digest: Sha256 of the artifact.
        sketch: Bins and counts of features and score.
        baseline: Realised performance on the reference; None for a model that is no binary classifier.
        threshold: Score at or above which the predicted class is 1.
        categorical: Features that are codes of levels.
        protected: Group of each reference row per protected attribute, aligned with `scored`.
        scored: The reference's own scores and outcomes, None without both.
    """

    digest: str
    sketch: Sketch
    baseline: Baseline | None
    threshold: float
    categorical: frozenset[str] = frozenset()
    protected: dict[str, NDArray[np.str_]] = field(default_factory=dict)
    scored: Scored | None = None


class ReferenceSource(Protocol):
    """Where references come from."""

    async def load(self, key: Key) -> Reference:
        """Give a version's reference.

        Raises:
            NoReference: The version has none, or one that cannot be read.
            Unavailable: The registry does not answer; trying again later may work.
        """
        ...

    async def namespace(self, endpoint: str) -> str | None:
        """Give an endpoint's namespace, None when nobody knows it now."""
        ...


class RegistryReferences:
    """References from the registry, with a cache on disk and a small one in memory."""

    def __init__(self, registry: RegistryClient, folder: Path) -> None:
        self._registry = registry
        self._folder = folder
        self._parsed: OrderedDict[tuple[str, int], Reference] = OrderedDict()
        self._namespaces: dict[str, str] = {}

    async def load(self, key: Key) -> Reference:
        """Give a version's reference; versions are immutable, so a parsed one stays valid."""
        name = (key.model, key.model_version)
        known = self._parsed.get(name)
        if known is not None:
            self._parsed.move_to_end(name)
            return known
        version = await self._version(key)
        digest = _artifact_digest(version)
        path = self._folder / f"{digest}.parquet"
        if not await asyncio.to_thread(path.exists):
            await self._download(digest, path)
        reference = await asyncio.to_thread(read_reference, path, digest, version)
        self._parsed[name] = reference
        while len(self._parsed) > _CACHED_MAX:
            self._parsed.popitem(last=False)
        return reference

    async def namespace(self, endpoint: str) -> str | None:
        """Ask the registry once; an endpoint never changes its namespace."""
        if endpoint not in self._namespaces:
            try:
                self._namespaces[endpoint] = (await self._registry.endpoint(endpoint)).namespace
            except ServiceProblem:
                return None
        return self._namespaces[endpoint]

    async def _version(self, key: Key) -> Version:
        try:
            return await self._registry.version(key.model, key.model_version)
        except ServiceProblem as problem:
            if problem.status == 404:  # noqa: PLR2004 - HTTP's own number
                raise NoReference(
                    f"The registry knows no version {key.model_version} of {key.model}.", model=key.model
                ) from problem
            raise _registry_away() from problem

    async def _download(self, digest: str, path: Path) -> None:
        hasher, size = hashlib.sha256(), 0
        partial = path.with_suffix(f".{uuid4().hex}.partial")
        try:
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            with partial.open("xb") as file:
                async for chunk in self._registry.blob(digest):
                    size += len(chunk)
                    if size > _BYTES_MAX:
                        raise NoReference(f"The reference has more than {_BYTES_MAX} bytes.", limit=_BYTES_MAX)
                    hasher.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            if hasher.hexdigest() != digest:
                raise Unavailable("The reference arrived damaged; it is fetched again.", code="digest_mismatch")
            await asyncio.to_thread(os.replace, partial, path)
        except ServiceProblem as problem:
            raise _registry_away() from problem
        finally:
            await asyncio.to_thread(partial.unlink, missing_ok=True)


def _registry_away() -> Unavailable:
    return Unavailable("The registry does not give the reference; it is asked again.", code="registry_unavailable")


def _artifact_digest(version: Version) -> str:
    for artifact in version.artifacts:
        if artifact.path == ARTIFACT:
            return artifact.digest
    raise NoReference(
        f"{version.model} {version.version} carries no {ARTIFACT}; register it with one to monitor it.",
        model=version.model,
        version=version.version,
    )


def read_reference(path: Path, digest: str, version: Version) -> Reference:
    """Parse a reference file.

    Args:
        path: The Parquet file.
        digest: Its sha256.
        version: The version that it belongs to; its signature names the features.

    Raises:
        NoReference: The file is no Parquet, or lacks a feature of the signature.
    """
    try:
        columns = arrow.read_columns(str(path))
    except (ValueError, OSError) as error:
        raise NoReference(f"{ARTIFACT} of {version.model} {version.version} is no Parquet file.") from error
    features = version.signature.columns or [n for n in columns if n not in (_SCORE, _LABEL)]
    missing = [name for name in features if name not in columns]
    if missing:
        raise NoReference(f"{ARTIFACT} lacks the features {', '.join(missing[:5])}.", missing=missing[:20])
    known = {name: as_served(_floats(columns, name)) for name in features}
    score = as_served(_floats(columns, _SCORE)) if _SCORE in columns else None
    scored = None
    if score is not None and _LABEL in columns:
        scored = Scored(score, _floats(columns, _LABEL), version.signature.threshold)
    protected = [n for n in columns if n not in (*features, _SCORE, _LABEL)]
    return Reference(
        digest=digest,
        sketch=sketch(known, score),
        baseline=baseline(scored) if scored is not None else None,
        threshold=version.signature.threshold,
        categorical=frozenset(version.signature.levels),
        protected={name: group_names(arrow.as_objects(columns[name])) for name in protected},
        scored=scored,
    )


def _floats(columns: dict[str, Any], name: str) -> NDArray[np.float64]:
    try:
        return arrow.as_floats(columns[name])
    except (ValueError, NotImplementedError) as error:
        raise NoReference(f"The column '{name}' of {ARTIFACT} holds no numbers.", column=name) from error


def as_served(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Round values to float32, as they reach the model, so that levels compare equal; shape unchanged."""
    return values.astype(np.float32).astype(np.float64)


def group_names(values: list[object]) -> NDArray[np.str_]:
    """Write group values one way, whether they came as 1, 1.0, true or text; unknown is the empty text."""
    return np.array([_group_name(value) for value in values], dtype=np.str_)


def _group_name(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
