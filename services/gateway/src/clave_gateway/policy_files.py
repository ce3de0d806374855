"""Reads a policy from files: the shipped one, or one that somebody is about to try."""

from importlib.resources import files
from pathlib import Path

import orjson
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.errors import InvalidArgument


class PolicyFilesInvalid(InvalidArgument):
    """A policy's files cannot be read as one policy."""

    code = "policy_files_invalid"


def shipped_policy_dir() -> Path:
    """Where this release keeps its policy: inside the package, or beside the sources of a checkout."""
    packaged = Path(str(files("clave_gateway"))) / "policies"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "policies"


def read_modules(folder: Path) -> dict[str, str]:
    """Read every Rego module of a folder by file name; Rego tests are left out."""
    paths = sorted(path for path in folder.glob("*.rego") if not path.name.endswith("_test.rego"))
    if not paths:
        raise PolicyFilesInvalid(f"{folder} holds no .rego file.")
    return {path.name: path.read_text() for path in paths}


def merge_data(paths: list[Path]) -> dict[str, object]:
    """Merge data files into ``data.clave``; each top-level name may come from one file only.

    A file may hold the names themselves or, as OPA's bundles do, all of them under ``clave``.
    """
    merged: dict[str, object] = {}
    for path in paths:
        try:
            document = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError as error:
            raise PolicyFilesInvalid(f"{path} is not JSON: {error}.") from error
        names = document.get("clave", document) if isinstance(document, dict) else None
        if not isinstance(names, dict):
            raise PolicyFilesInvalid(f"{path} does not hold an object.")
        twice = sorted(set(names) & set(merged))
        if twice:
            raise PolicyFilesInvalid(f"{path} repeats {', '.join(twice)}, which another file holds.")
        merged |= names
    return merged


def read_policy(folder: Path) -> PolicyBundle:
    """Read a policy folder: ``clave/*.rego`` and ``data/*.json``."""
    return PolicyBundle(
        modules=read_modules(folder / "clave"), data=merge_data(sorted((folder / "data").glob("*.json")))
    )
