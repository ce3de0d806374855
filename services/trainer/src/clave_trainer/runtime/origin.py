"""Which code and which packages made a version."""

import hashlib
from functools import cache
from importlib.metadata import distributions, version


@cache
def code_version() -> str:
    """Return the trainer's own version."""
    return f"clave-trainer {version('clave-trainer')}"


@cache
def environment_digest() -> str:
    """Return the sha256 over every installed package and its version, sorted: equal environments, equal digest."""
    installed = sorted({f"{each.name.lower()}=={each.version}" for each in distributions() if each.name})
    return hashlib.sha256("\n".join(installed).encode()).hexdigest()
