"""What a version consists of: its artifacts by content, and one digest over all of them.

The manifest is the sorted list of (path, sha256, size). Its digest is the sha256 of that list as canonical JSON
(RFC 8785), so anybody can recompute it from the files alone; a flipped byte in any file changes it.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from clave_common.errors import InvalidArgument

from clave_registry.domain.artifact_path import checked_artifact_path

ARTIFACTS_MAX = 2_000
MEDIA_TYPE_DEFAULT = "application/octet-stream"
SAFE_SUFFIXES = (".onnx", ".ubj", ".json", ".safetensors", ".npz", ".parquet", ".csv", ".txt", ".md", ".yaml", ".yml")
PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".skops", ".dill", ".cloudpickle")
_FORMATS = {".onnx": "onnx", ".ubj": "xgboost", ".xgb.json": "xgboost", ".safetensors": "safetensors"}
_DIGEST = re.compile(r"[0-9a-f]{64}")


def model_format(path: str) -> str | None:
    """Name the model format that a file's name announces: ``onnx``, ``xgboost``, ``safetensors``; None for others."""
    name = path.lower().rpartition("/")[2]
    if name == "model.json":
        return "xgboost"
    return next((kind for suffix, kind in _FORMATS.items() if name.endswith(suffix)), None)


def may_run_code(path: str) -> bool:
    """Tell whether a file's kind can run code when it is opened (pickles and what contains them)."""
    return path.lower().endswith(PICKLE_SUFFIXES)


class InvalidManifest(InvalidArgument):
    """The list of artifacts is empty, too long, or names one path twice."""

    code = "invalid_manifest"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a version.

    Attributes:
        path: Relative POSIX path inside the version.
        digest: Lower-case hex sha256 of the bytes.
        size: Bytes, at least 0.
    """

    path: str
    digest: str
    size: int

    def __post_init__(self) -> None:
        checked_artifact_path(self.path)
        if not _DIGEST.fullmatch(self.digest):
            raise InvalidManifest(
                f"The digest of '{self.path}' is not 64 lower-case hexadecimal characters.", field=self.path
            )
        if self.size < 0:
            raise InvalidManifest(f"The size of '{self.path}' is negative.", field=self.path)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The artifacts of a version, sorted by path, each path once; no path is a folder of another."""

    artifacts: tuple[Artifact, ...]

    @classmethod
    def of(cls, artifacts: Iterable[Artifact]) -> "Manifest":
        """Sort and check a list of artifacts.

        Raises:
            InvalidManifest: There is none, there are more than 2,000, or two of them cannot both be files.
        """
        ordered = tuple(sorted(artifacts, key=lambda artifact: artifact.path))
        if not 1 <= len(ordered) <= ARTIFACTS_MAX:
            raise InvalidManifest(
                f"A version has 1 to {ARTIFACTS_MAX} artifacts.", field="artifacts", limit=ARTIFACTS_MAX
            )
        paths = {artifact.path for artifact in ordered}
        if len(paths) != len(ordered):
            raise InvalidManifest("An artifact path comes twice.", field="artifacts")
        for path in paths:
            _require_no_file_above(path, paths)
        return cls(ordered)

    @property
    def digest(self) -> str:
        """Lower-case hex sha256 over the canonical JSON of all entries."""
        entries = [{"digest": a.digest, "path": a.path, "size": a.size} for a in self.artifacts]
        canonical = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all artifacts together."""
        return sum(artifact.size for artifact in self.artifacts)

    def get(self, path: str) -> Artifact | None:
        """Find an artifact by its path."""
        return next((artifact for artifact in self.artifacts if artifact.path == path), None)

    @property
    def unsafe_paths(self) -> tuple[str, ...]:
        """Paths whose kind of file can run code when opened; such a version is never deployable."""
        return tuple(a.path for a in self.artifacts if may_run_code(a.path))

    @property
    def models(self) -> tuple[Artifact, ...]:
        """The models among the artifacts that are looked into: ONNX, XGBoost and safetensors."""
        return tuple(a for a in self.artifacts if model_format(a.path) is not None)


def _require_no_file_above(path: str, paths: set[str]) -> None:
    parts = path.split("/")
    for depth in range(1, len(parts)):
        folder = "/".join(parts[:depth])
        if folder in paths:
            raise InvalidManifest(f"'{folder}' cannot be a file and the folder of '{path}'.", field="artifacts")
