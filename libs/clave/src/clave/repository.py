"""A feature repository: the files that `clave apply DIR` sends.

    DIR/features.yaml        entities, feature_views, label_views, feature_services
    DIR/pipelines/*.yaml     one pipeline each
    DIR/monitors/*.yaml      one endpoint's retraining policy each: ``endpoint`` and ``policy``

A label view is a feature view whose values are outcomes; the file keeps the two apart, the wire marks it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from clave_contracts.features import Repository
from clave_contracts.monitor import RetrainingPolicy
from clave_contracts.trainer import PipelineSpec
from pydantic import BaseModel, ValidationError

from clave.failures import EnvironmentFailure, Failure

T = TypeVar("T", bound=BaseModel)
_FILE_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True)
class RepositoryFiles:
    """What the files say.

    Attributes:
        features: For the feature service.
        pipelines: For the trainer.
        policies: For the monitor, by endpoint.
    """

    features: Repository
    pipelines: list[PipelineSpec]
    policies: dict[str, RetrainingPolicy]


def load_repository(folder: Path) -> RepositoryFiles:
    """Read and check a repository's files; nothing is sent.

    Raises:
        EnvironmentFailure: The folder or its features.yaml is missing.
        Failure: A file is no YAML or says something that no service would take; names the file and the field.
    """
    file = folder / "features.yaml"
    if not file.is_file():
        raise EnvironmentFailure(f"There is no {file}.", remedy="Name the folder that holds features.yaml.")
    content = _read(file)
    labels = [{**view, "label": True} for view in content.pop("label_views", None) or []]
    content["feature_views"] = [*(content.get("feature_views") or []), *labels]
    policies = [(path, _read(path)) for path in sorted(folder.glob("monitors/*.yaml"))]
    return RepositoryFiles(
        features=_checked(Repository, content, file),
        pipelines=[_checked(PipelineSpec, _read(path), path) for path in sorted(folder.glob("pipelines/*.yaml"))],
        policies={
            str(policy.get("endpoint") or path.stem): _checked(RetrainingPolicy, policy.get("policy") or {}, path)
            for path, policy in policies
        },
    )


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _FILE_BYTES_MAX:
        raise Failure(f"{path} is larger than 1 MB; that is no repository file.")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Failure(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise Failure(f"{path} is empty or no mapping.")
    return content


def _checked(kind: type[T], content: dict[str, Any], path: Path) -> T:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Failure(f"{path}: {place}: {first['msg']} ({error.error_count()} in all).") from error
