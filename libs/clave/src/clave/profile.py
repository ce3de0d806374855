"""The stack that `clave login` chose: its address and credential, in one 0600 file of the user's own."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from clave.failures import EnvironmentFailure


@dataclass(frozen=True)
class Profile:
    """A stack and how to speak to it.

    Attributes:
        url: Base address.
        credential: An API key, or a token of the identity provider; sent as ``Authorization: Bearer``.
        ca_file: Authorities to trust for an https address.
    """

    url: str
    credential: str
    ca_file: Path | None = None

    def __repr__(self) -> str:
        return f"Profile(url={self.url!r})"


def profile_path() -> Path:
    """``CLAVE_PROFILE``, else ``clave/profile.json`` in the user's configuration folder (XDG)."""
    named = os.environ.get("CLAVE_PROFILE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "clave" / "profile.json"


def read_profile() -> Profile | None:
    """Read the profile; None where nobody logged in.

    Raises:
        EnvironmentFailure: The file is damaged, or others may read it.
    """
    path = profile_path()
    try:
        if path.stat().st_mode & 0o077:
            raise EnvironmentFailure(f"Others may read {path}.", remedy=f"Run: chmod 600 {path}")
        known = json.loads(path.read_text())
        ca_file = known.get("ca_file")
        return Profile(str(known["url"]), str(known["credential"]), Path(ca_file) if ca_file else None)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentFailure(f"{path} is damaged.", remedy="Run `clave login` again.") from error


def write_profile(profile: Profile) -> Path:
    """Keep a profile, whole or not at all, readable by its owner alone."""
    path = profile_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        ca_file = None if profile.ca_file is None else str(profile.ca_file)
        json.dump({"url": profile.url, "credential": profile.credential, "ca_file": ca_file}, file, indent=2)
    draft.replace(path)
    return path


def forget_profile() -> bool:
    """Remove the profile; False where there was none."""
    path = profile_path()
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed
