"""Writes the page "Who may do what" from the policy itself, so that it cannot say anything else."""

from collections.abc import Mapping
from typing import Any

from clave_gateway.domain.explanations import REMEDIES
from clave_gateway.domain.roles import permits, role_closure

_FLAGS = {
    "mutating": "changes something",
    "namespaced": "per environment",
    "internal": "services only",
    "mfa": "second factor",
    "admin_network": "admin network",
    "sod": "separation of duties",
    "deploys": "approvals, signature, gate, card",
    "windowed": "change window",
    "checks_status": "status",
    "reads_features": "purpose and consent",
    "quota": "quota",
    "delegates": "gives scopes",
    "binds_role": "gives a role",
}
_SERVICES = "-service"
_OPENING = (
    "Made from the policy's data by `python -m clave_gateway policy-page`; a test keeps it true. Roles are bound "
    "to people, applications and groups with `clave bindings create`, per tenant, environment and resource."
)


def policy_page(data: Mapping[str, Any]) -> str:
    """Write the page in Markdown.

    Args:
        data: The document ``data.clave``.
    """
    parts = [
        "# Who may do what",
        _OPENING,
        _roles(data),
        _actions(data),
        _namespaces(data),
        _settings(data),
        _reasons(),
    ]
    return "\n\n".join(parts) + "\n"


def _people(data: Mapping[str, Any]) -> list[str]:
    return [role for role in data["roles"] if not role.endswith(_SERVICES)]


def _services(data: Mapping[str, Any]) -> list[str]:
    return [role for role in data["roles"] if role.endswith(_SERVICES)]


def _roles(data: Mapping[str, Any]) -> str:
    lines = ["## Roles", "", "| role | inherits | adds | may hand out |", "|---|---|---|---|"]
    for role, entry in data["roles"].items():
        inherits = ", ".join(role_closure(data["roles"], role)[1:])
        adds = ", ".join(f"`{name}`" for name in entry.get("permissions", []))
        hands_out = ", ".join(f"`{name}`" for name in entry.get("may_delegate", []))
        lines.append(f"| **{role}** | {inherits} | {adds} | {hands_out} |")
    return "\n".join(lines)


def _actions(data: Mapping[str, Any]) -> str:
    people, services = _people(data), _services(data)
    lines = ["## Actions", "", "| action | people and applications | services | demands |", "|---|---|---|---|"]
    for action, entry in data["catalog"].items():
        demands = ", ".join(text for flag, text in _FLAGS.items() if entry.get(flag))
        allowed = "" if entry.get("internal") else _holders(data, people, action)
        lines.append(f"| `{action}` | {allowed} | {_holders(data, services, action)} | {demands} |")
    return "\n".join(lines)


def _holders(data: Mapping[str, Any], roles: list[str], action: str) -> str:
    return ", ".join(role.removesuffix(_SERVICES) for role in roles if permits(data["roles"], role, action))


def _namespaces(data: Mapping[str, Any]) -> str:
    lines = [
        "## Environments",
        "",
        "| environment | human approvals | signature | evaluation gate | change windows | deploys from |",
        "|---|---|---|---|---|---|",
    ]
    for name, rules in data["namespaces"].items():
        windows = f"{len(rules['windows'])} windows" if rules["windows"] else "any time"
        deploys = ", ".join(rules["statuses"]["deploy"])
        signature = "required" if rules["require_signature"] else "no"
        gate = "required" if rules["require_gate"] else "no"
        if named := rules.get("require_evaluated_by"):
            gate += f", recorded by {', '.join(f'`{name}`' for name in named)}"
        lines.append(f"| {name} | {rules['min_approvals']} | {signature} | {gate} | {windows} | {deploys} |")
    return "\n".join(lines)


def _settings(data: Mapping[str, Any]) -> str:
    settings = data.get("settings", {})
    enforced = "enforced" if settings.get("mfa_enforced", True) else "not enforced (one engineer's machine)"
    waived = ", ".join(f"`{action}`" for action in settings.get("sod_waived", [])) or "nothing"
    exempt = ", ".join(f"`{action}`" for action in settings.get("lockdown_exempt", []))
    networks = ", ".join(f"`{network}`" for network in data["admin_networks"])
    return "\n".join(
        [
            "## Settings in force",
            "",
            f"- Second factor: {enforced}.",
            f"- Separation of duties is waived for {waived}.",
            f"- Lockdown exempts {exempt}.",
            f"- Administration is accepted from {networks}.",
        ]
    )


def _reasons() -> str:
    lines = ["## Why a request is refused", "", "| reason | what would be needed |", "|---|---|"]
    lines += [f"| `{reason}` | {text} |" for reason, text in REMEDIES.items()]
    return "\n".join(lines)
