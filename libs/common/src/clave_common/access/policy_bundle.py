"""A policy as it travels: Rego modules, the data they decide by, and which version both are."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785

from clave_common.access.policy_index import arranged

_PACKAGE = re.compile(r"^package ([a-z][a-z0-9_.]*)$", re.MULTILINE)
_IMPORT = re.compile(r"^import [a-z][a-z0-9_.]*$", re.MULTILINE)
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

    def document(self) -> dict[str, Any]:
        """What an engine holds as ``data.clave``: the data, arranged for fast answers (`policy_index`)."""
        return arranged(self.data)

    def packages(self) -> dict[str, str]:
        """Join the modules of each package into one text, by package name.

        A server that takes one module at a time (OPA's REST API) compiles each upload by itself and would refuse a
        module whose rules live partly in another file.
        """
        joined: dict[str, list[str]] = {}
        imports: dict[str, set[str]] = {}
        for _, text in sorted(self.modules.items()):
            package = _PACKAGE.search(text)
            if package is None:
                continue
            name = package.group(1)
            imports.setdefault(name, set()).update(_IMPORT.findall(text))
            joined.setdefault(name, []).append(_IMPORT.sub("", _PACKAGE.sub("", text)))
        return {
            name: "\n".join([f"package {name}", "", *sorted(imports[name]), *parts]) for name, parts in joined.items()
        }

    def mutating(self, action: str) -> bool:
        """Tell whether an action changes something; an unknown one is taken to."""
        entry = self.data.get("catalog", {}).get(action)
        return not (isinstance(entry, Mapping) and entry.get("mutating") is False)
