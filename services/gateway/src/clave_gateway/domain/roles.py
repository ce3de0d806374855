"""What a role permits, with everything it inherits."""

from collections.abc import Mapping
from typing import Any


def role_closure(roles: Mapping[str, Any], role: str) -> list[str]:
    """List a role and everything it inherits, itself first; an unknown role has none."""
    found: list[str] = []
    waiting = [role]
    while waiting:
        name = waiting.pop(0)
        if name in found or name not in roles:
            continue
        found.append(name)
        waiting.extend(roles[name].get("inherits", []))
    return found


def permissions_of(roles: Mapping[str, Any], role: str) -> list[str]:
    """List the action patterns a role permits, sorted."""
    return sorted({pattern for name in role_closure(roles, role) for pattern in roles[name].get("permissions", [])})


def covers(pattern: str, action: str) -> bool:
    """Tell whether a pattern covers an action: ``**``, the name itself, or one trailing ``*`` within a segment."""
    if pattern in {"**", action}:
        return True
    if not pattern.endswith("*") or pattern.endswith("**"):
        return False
    prefix = pattern[:-1]
    return action.startswith(prefix) and ":" not in action[len(prefix) :]


def permits(roles: Mapping[str, Any], role: str, action: str) -> bool:
    """Tell whether a role permits an action."""
    return any(covers(pattern, action) for pattern in permissions_of(roles, role))
