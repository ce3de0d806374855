"""Arranges a policy's data for fast answers: what each role comes to, who holds what where, what each action demands.

The rules work all of it out themselves where the data lack it (`holdings.rego`, `roles.rego`); walking roles and
bindings in every decision made its cost grow with both, and the embedded machine stops after 25,000 instructions.
Both engines are given the same arranged data.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_BELOW = "/**"
_ALL = "**"


def arranged(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's data with `closures`, `grants`, `demands` and `holders` added, whatever stood there before."""
    roles, catalog = _mapping(data.get("roles")), _mapping(data.get("catalog"))
    closures = {role: _closure(role, roles) for role in roles if isinstance(roles[role], Mapping)}
    return {
        **data,
        "closures": closures,
        "grants": {action: _granting(action, closures) for action in catalog},
        "demands": {action: demands(entry) for action, entry in catalog.items() if isinstance(entry, Mapping)},
        "holders": {
            "subjects": _holders(data.get("bindings")),
            "groups": _holders(data.get("group_bindings")),
        },
    }


def merged_for(data: Mapping[str, Any], subject_id: str, groups: Iterable[str]) -> dict[str, Any]:
    """Return arranged data for questions of one subject, which then holds its groups' bindings as its own.

    Every rule asks whether some holding fits, never whose it is, so the answers are those of the whole data.
    """
    bindings, group_bindings = _mapping(data.get("bindings")), _mapping(data.get("group_bindings"))
    own = [
        binding
        for given in (bindings.get(subject_id, []), *(group_bindings.get(group, []) for group in groups))
        for binding in given
    ]
    return arranged({**data, "bindings": {subject_id: own}, "group_bindings": {}})


def demands(entry: Mapping[str, Any]) -> dict[str, bool]:
    """Name the flags of a catalogued action that are neither absent nor false."""
    return {flag: True for flag, value in entry.items() if value is not False}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else []


def _closure(role: str, roles: Mapping[str, Any]) -> dict[str, Any]:
    """Work out what `closure(role)` of roles.rego would."""
    reached, waiting = set[str](), [role]
    while waiting:
        name = waiting.pop()
        if name not in reached and isinstance(roles.get(name), Mapping):
            reached.add(name)
            waiting.extend(_strings(roles[name].get("inherits")))
    permissions = {each for name in reached for each in _strings(roles[name].get("permissions"))}
    held = permissions | {each for name in reached for each in _strings(roles[name].get("may_delegate"))}
    return {
        "roles": dict.fromkeys(sorted(reached), True),
        "exact": {each: True for each in sorted(permissions) if "*" not in each},
        "patterns": sorted(each for each in permissions if "*" in each),
        "held": dict.fromkeys(sorted(held), True),
        "held_patterns": sorted(each for each in held if "*" in each),
    }


def _granting(action: str, closures: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    return {
        role: True
        for role, closure in closures.items()
        if action in closure["exact"] or any(_matches(pattern, action) for pattern in closure["patterns"])
    }


def _matches(pattern: str, action: str) -> bool:
    """Do what `matches_action` of patterns.rego does."""
    if pattern in {_ALL, action}:
        return True
    prefix = pattern.removesuffix("*")
    return pattern.endswith("*") and action.startswith(prefix) and ":" not in action.removeprefix(prefix)


def _holders(bindings: object) -> dict[str, Any]:
    return {
        holder: _held([binding for binding in given if isinstance(binding, Mapping)])
        for holder, given in _mapping(bindings).items()
        if isinstance(given, Sequence)
    }


def _held(bindings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Do what `arranged` of holdings.rego does; bindings that differ in their resources alone become one clause."""
    places: defaultdict[str, defaultdict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for binding in bindings:
        role, tenant = binding.get("role"), binding.get("tenant")
        if isinstance(role, str) and isinstance(tenant, str):
            places[role][tenant].append(binding)
    return {
        role: {tenant: _place(given) for tenant, given in sorted(tenants.items())}
        for role, tenants in sorted(places.items())
    }


def _place(given: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    anywhere: dict[str, None] = {}
    namespaces: defaultdict[str, dict[str, None]] = defaultdict(dict)
    clauses: defaultdict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    for binding in given:
        patterns = dict.fromkeys(_strings(binding.get("resources", [_ALL])))
        names = tuple(sorted(set(_strings(binding.get("namespaces")))))
        anywhere |= patterns
        clauses[names] |= patterns
        for name in names:
            namespaces[name] |= patterns
    return {
        "anywhere": _reach(anywhere),
        "namespaces": {name: _reach(patterns) for name, patterns in namespaces.items()},
        "clauses": [
            {"namespaces": list(names), "resources": [_ALL] if _ALL in patterns else list(patterns)}
            for names, patterns in clauses.items()
        ],
    }


def _reach(patterns: Iterable[str]) -> dict[str, Any]:
    every = list(patterns)
    return {
        "all": _ALL in every,
        "ids": {pattern: True for pattern in every if not pattern.endswith(_BELOW)},
        "below": {pattern.removesuffix(_BELOW): True for pattern in every if pattern.endswith(_BELOW)},
    }
