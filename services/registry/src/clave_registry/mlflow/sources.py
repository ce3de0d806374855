"""Where a version's files come from: MLflow's ``source`` strings, read strictly and never opened.

A source is resolved to a folder of the artifact table, to another version, or to nothing the registry holds (``s3://``
and its kin: remembered as text). Local paths and anything that could leave its folder are refused.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from clave_common.errors import InvalidArgument

from clave_registry.domain.artifact_path import InvalidArtifactPath, checked_artifact_path

SOURCE_CHARACTERS_MAX = 2_000
_LOGGED_MODEL = re.compile(r"models:/{1,3}(m-[0-9a-f]{32})")
_VERSION = re.compile(r"models:/{1,3}([^/:]+)/(\d{1,9})")
_RUN = re.compile(r"runs:/{1,3}([\w-]{1,64})/(.+)")
_PROXIED = re.compile(r".*?/api/2\.0/mlflow-artifacts/artifacts/(.+)")


@dataclass(frozen=True, slots=True)
class LoggedModelSource:
    """``models:/m-...``."""

    model_id: str


@dataclass(frozen=True, slots=True)
class VersionSource:
    """``models:/name/3``."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class RunSource:
    """``runs:/<run id>/path``."""

    run_id: str
    path: str


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder of the artifact store, in any of its spellings."""

    path: str


@dataclass(frozen=True, slots=True)
class ForeignSource:
    """A store that is not this one; remembered, never opened."""

    uri: str


Source = LoggedModelSource | VersionSource | RunSource | FolderSource | ForeignSource


def parse_source(source: str) -> Source:
    """Read a source.

    Raises:
        InvalidArgument: A local path, ``..`` or NUL in any encoding, a fragment or a query.
    """
    _require_plain(source)
    if found := _LOGGED_MODEL.fullmatch(source):
        return LoggedModelSource(found[1])
    if found := _VERSION.fullmatch(source):
        return VersionSource(found[1], int(found[2]))
    if found := _RUN.fullmatch(source):
        return RunSource(found[1], _folder(source, found[2]))
    return _by_scheme(source)


def _by_scheme(source: str) -> Source:
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise _refusal(source, "is no URI") from error
    match parts.scheme.lower():
        case "mlflow-artifacts":
            return FolderSource(_folder(source, parts.path.strip("/")))
        case "http" | "https":
            proxied = _PROXIED.fullmatch(parts.path)
            return FolderSource(_folder(source, proxied[1])) if proxied else ForeignSource(source)
        case "" | "file" | "models" | "runs":
            raise _refusal(source, "is a local path or an unknown model")
        case scheme if len(scheme) == 1:
            raise _refusal(source, "is a local path")
        case _:
            return ForeignSource(source)


def folder_of(uri: str) -> str:
    """Give the folder of the artifact table that an artifact URI of this registry names."""
    return uri.partition(":")[2].lstrip("/")


def _folder(source: str, path: str) -> str:
    try:
        return checked_artifact_path(unquote(path.strip("/")))
    except InvalidArtifactPath as error:
        raise _refusal(source, "leaves its folder") from error


def _require_plain(source: str) -> None:
    if not source or len(source) > SOURCE_CHARACTERS_MAX:
        raise _refusal(source, f"has not 1 to {SOURCE_CHARACTERS_MAX} characters")
    form, decoded = source, unquote(source)
    for _ in range(8):
        if any(ord(c) < 32 for c in form) or ".." in re.split(r"[/\\]", form) or "#" in form or "?" in form:  # noqa: PLR2004 - ASCII's control characters
            raise _refusal(source, "holds '..', '#', '?' or a control character")
        if decoded == form:
            return
        form, decoded = decoded, unquote(decoded)
    raise _refusal(source, "is percent-encoded too many times")


def _refusal(source: str, why: str) -> InvalidArgument:
    shown = source[:120].encode("unicode_escape").decode()
    return InvalidArgument(f"Invalid model version source: '{shown}' {why}.", field="source")
