"""A policy as it travels: Rego modules, the data they decide by, and which version both are."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785

DECISION_RULE = "data.clave.authz.decision"
VISIBLE_RULE = "data.clave.filters.visible"


@dataclass(frozen=True, slots=True)
class PolicyBundle:
    """What a policy engine loads.

    Attributes:
        modules: Rego text by file name, for example ``authz.rego``.
        data: The document ``data.clave``: catalogue, roles, bindings, namespaces, limits, settings.
    """

    modules: Mapping[str, str]
    data: Mapping[str, Any]

    @property
    def version(self) -> str:
        """The version that the data state and every decision repeats."""
        return str(self.data.get("version", "unversioned"))

    def digest(self) -> str:
        """SHA-256 over modules and data in canonical JSON (RFC 8785), as ``sha256:<hex>``."""
        canonical = rfc8785.dumps({"modules": dict(self.modules), "data": dict(self.data)})
        return f"sha256:{hashlib.sha256(canonical).hexdigest()}"

    def mutating(self, action: str) -> bool:
        """Tell whether an action changes something; an unknown one is taken to."""
        entry = self.data.get("catalog", {}).get(action)
        return not (isinstance(entry, Mapping) and entry.get("mutating") is False)
